-- requires batch.lua
-- Cancel a batch.
-- KEYS and ARGV as in batch.lua
local batch = read_batch()
if not batch then return nil end
if batch.cancelled ~= "-" then return answer(batch, false) end
batch.cancelled = microseconds()
write_batch(batch)
return answer(batch, true)
