-- Ready is the roll-up: False is for what a person must act on, Unknown for what is under way. So a rollout or a
-- switch under way is never shown as Degraded, and a proposal that waits for a person does not hold up a sync.
local function condition(kind)
  for _, each in ipairs(obj.status.conditions or {}) do
    if each.type == kind then
      return each
    end
  end
  return nil
end

local function health(status, message)
  return { status = status, message = message }
end

local generation = obj.metadata.generation

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "being deleted")
end
if obj.status == nil or obj.status.observedGeneration == nil then
  return health("Progressing", "waiting for the MetaInf operator")
end
if generation ~= nil and obj.status.observedGeneration ~= generation then
  return health("Progressing", "waiting for the MetaInf operator to see the latest spec")
end

local ready = condition("Ready")
if ready == nil then
  return health("Progressing", "waiting for the condition Ready")
end
if generation ~= nil and ready.observedGeneration ~= nil and ready.observedGeneration ~= generation then
  return health("Progressing", "waiting for the condition Ready to be of the latest spec")
end

local message = ready.reason
if ready.message ~= nil and ready.message ~= "" then
  message = ready.reason .. ": " .. ready.message
end

if ready.status == "True" then
  return health("Healthy", message)
end
if ready.status == "False" then
  return health("Degraded", message)
end
if ready.reason == "Suspended" or ready.reason == "AwaitingApproval" then
  return health("Suspended", message)
end
return health("Progressing", message)
