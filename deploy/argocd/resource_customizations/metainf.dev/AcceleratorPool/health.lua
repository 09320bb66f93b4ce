-- Degraded is a pool from which nothing can be bought until a person acts: its spec is wrong, its nodes differ from it,
-- or no price is known. Nodes that another pool selects too are settled by name, so the pool is Healthy and says so.
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

local function told(each)
  if each.message ~= nil and each.message ~= "" then
    return each.reason .. ": " .. each.message
  end
  return each.reason
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
if ready == nil or ready.status == "Unknown" then
  return health("Progressing", "waiting for the condition Ready")
end
if ready.status == "False" then
  return health("Degraded", told(ready))
end
local priced = condition("PriceKnown")
if priced ~= nil and priced.status == "False" then
  return health("Degraded", told(priced))
end
local overlapping = condition("Overlapping")
if overlapping ~= nil and overlapping.status == "True" then
  return health("Healthy", told(overlapping))
end
return health("Healthy", told(ready))
