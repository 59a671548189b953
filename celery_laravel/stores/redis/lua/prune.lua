-- requires batch_removal.lua
-- Remove a batch if it finished before an instant, is unfinished and was created before another, or is cancelled and
-- was created before a third.
-- KEYS[1…4] and ARGV[1…3] as in batch.lua   KEYS[5] the shard's index of batches
-- ARGV[4…6] the instants in microseconds as text of 16 digits, empty for never
-- ARGV[7] the batch's place in the index, which goes too when the batch itself is gone
-- Returns 1 when it was removed, 0 otherwise.
local batch = read_batch()
if not batch then
    redis.call("ZREM", KEYS[5], ARGV[7])
    return 0
end
local is_finished, is_cancelled = batch.finished ~= "-", batch.cancelled ~= "-"
if (is_finished and batch.finished < ARGV[4])
    or (not is_finished and batch.created < ARGV[5])
    or (is_cancelled and batch.created < ARGV[6]) then
    remove(batch)
    return 1
end
return 0
