-- requires batch_removal.lua
-- Remove a batch.
-- KEYS[1…4] and ARGV[1…3] as in batch.lua   KEYS[5] the shard's index of batches
-- Returns 1 when there was one, 0 otherwise.
local batch = read_batch()
if not batch then return 0 end
remove(batch)
return 1
