-- requires batch_removal.lua
-- Remove a batch if it finished before an instant, or is unfinished and was created before another.
-- KEYS[1…4] and ARGV[1…3] as in batch.lua   KEYS[5] the shard's index of batches
-- ARGV[4] and ARGV[5] the two instants in microseconds as text of 16 digits, empty for never
-- ARGV[6] the batch's place in the index, which goes too when the batch itself is gone
-- Returns 1 when it was removed, 0 otherwise.
local batch = read_batch()
if not batch then
    redis.call("ZREM", KEYS[5], ARGV[6])
    return 0
end
local is_finished = batch.finished ~= "-"
if (is_finished and batch.finished < ARGV[4]) or (not is_finished and batch.created < ARGV[5]) then
    remove(batch)
    return 1
end
return 0
