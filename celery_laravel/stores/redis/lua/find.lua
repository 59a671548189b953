-- requires batch.lua
-- A batch as it stands, with the ids of failed jobs, of many some.
-- KEYS and ARGV as in batch.lua
local batch = read_batch()
if not batch then return nil end
return answer(batch, false, nil, true)
