-- approve: a proposal waits. suspend, resume: as spec.suspend stands.
local actions = {}
local suspended = obj.spec ~= nil and obj.spec.suspend == true

local waits = false
if obj.status ~= nil and obj.status.decisionRef ~= nil then
  for _, each in ipairs(obj.status.conditions or {}) do
    if each.type == "Ready" and each.status == "Unknown" and each.reason == "AwaitingApproval" then
      waits = obj.status.observedGeneration == obj.metadata.generation
    end
  end
end

actions["approve"] = { ["disabled"] = not waits }
actions["suspend"] = { ["disabled"] = suspended }
actions["resume"] = { ["disabled"] = not suspended }
return actions
