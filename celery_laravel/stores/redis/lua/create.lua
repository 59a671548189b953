-- requires batch.lua
-- Create a batch, open and empty, unless it is there.
-- KEYS[1…4] and ARGV[1…3] as in batch.lua   KEYS[5] the shard's index of batches
-- ARGV[4] the fixed part as JSON   ARGV[5] 1 when failures are allowed
-- ARGV[6…12] how many callbacks of the kinds before, progress, failure, catch, then, next and finally there are
local batch = read_batch()
if batch then return answer(batch, false, nil, true) end
local now = microseconds()
redis.call(
    "HSET", KEYS[1], "created", now, "fixed", ARGV[4], "allows", ARGV[5], "progress", ARGV[7], "failure", ARGV[8],
    "catch", ARGV[9], "then", ARGV[10], "next", ARGV[11], "finally", ARGV[12], "total", 0, "pending", 0, "failed", 0,
    "skipped", 0, "open", 1, "cancelled", "-", "finished", "-", "fired", "")
redis.call("ZADD", KEYS[5], 0, now .. ":" .. ARGV[1])
owe({before = tonumber(ARGV[6])}, {}, now, "before")
return answer(read_batch(), true)
