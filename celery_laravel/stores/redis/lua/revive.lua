-- requires batch.lua
-- Make a failed member pending again.
-- KEYS[1…4] and ARGV[1…3] as in batch.lua   KEYS[5] set once it is done, so that the call may be repeated
-- ARGV[4] index   ARGV[5] the id of the job that failed   ARGV[6] milliseconds to keep KEYS[5]
-- ARGV[7…] the members it kept from running, as ranges FIRST, LAST
local batch = read_batch()
if not batch then return nil end
if redis.call("EXISTS", KEYS[5]) == 1 then return answer(batch, true) end
local index = tonumber(ARGV[4])
if member(batch, index) ~= FAILED or redis.call("HGET", KEYS[3], index) ~= ARGV[5] then return answer(batch, false) end
redis.call("HDEL", KEYS[3], index)
set_member(index, PENDING)
local revived = move(batch, 7, SKIPPED, PENDING)
batch.failed = batch.failed - 1
batch.skipped = batch.skipped - revived
batch.pending = batch.pending + 1 + revived
batch.finished = "-"
write_batch(batch)
redis.call("SET", KEYS[5], 1, "PX", ARGV[6])
return answer(batch, true)
