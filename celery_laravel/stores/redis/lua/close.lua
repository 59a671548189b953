-- requires batch.lua
-- Say that a batch's dispatch is over.
-- KEYS and ARGV as in batch.lua
local batch = read_batch()
if not batch then return nil end
if batch.open == "0" then return answer(batch, false) end
local due = {}
batch.open = "0"
finish(batch, due, microseconds())
write_batch(batch)
return answer(batch, true, due)
