-- A decision is a record, and a record of a refusal is as sound as any other: what a person must act on is shown by the
-- InferenceWorkload, and an old refusal must not stay red in the tree for as long as it is kept. Only a proposal waits.
local says = {
  Proposed = { "Suspended", "proposed, waits for approval" },
  Active = { "Healthy", "in force" },
  Superseded = { "Healthy", "a later decision is in force" },
  Refused = { "Healthy", "nothing keeps the limits; the InferenceWorkload says which one binds" },
}

if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = "being deleted" }
end
if obj.status == nil or obj.status.phase == nil then
  return { status = "Progressing", message = "waiting for the MetaInf operator" }
end
local known = says[obj.status.phase]
if known == nil then
  return { status = "Unknown", message = "phase " .. obj.status.phase .. " is not known" }
end
return { status = known[1], message = known[2] }
