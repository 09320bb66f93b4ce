-- Pins the decision that is proposed: the same as a person would write into the spec.
if obj.status == nil or obj.status.decisionRef == nil then
  error("no decision is proposed")
end
if obj.spec.policy == nil then
  obj.spec.policy = {}
end
obj.spec.policy.mode = "Pinned"
obj.spec.policy.pinned = { ["decision"] = obj.status.decisionRef.name }
return obj
