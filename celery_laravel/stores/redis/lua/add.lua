-- requires batch.lua
-- Add pending members.
-- KEYS[1…4] and ARGV[1…3] as in batch.lua   KEYS[5] where the answer is kept, so that the call may be repeated
-- ARGV[4] how many   ARGV[5] milliseconds to keep the answer
-- Returns the index of the first, or -1 when the batch has finished, or nil when it is not known.
local given = redis.call("GET", KEYS[5])
if given then return tonumber(given) end
local batch = read_batch()
if not batch then return nil end
if batch.finished ~= "-" then return -1 end
local first = batch.total
redis.call("HSET", KEYS[1], "total", first + ARGV[4], "pending", batch.pending + ARGV[4])
redis.call("SET", KEYS[5], first, "PX", ARGV[5])
return first
