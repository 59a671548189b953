-- requires failed_job.lua
-- Remove one record.
-- KEYS[1…3] as in failed_job.lua   KEYS[4] set once it is done, so that the call may be repeated
-- ARGV[1] job id   ARGV[2] milliseconds to keep KEYS[4]
-- Returns 1 when this call removed it, 0 otherwise.
if redis.call("EXISTS", KEYS[4]) == 1 then return 1 end
local record = redis.call("HGET", KEYS[1], ARGV[1])
if not record then return 0 end
remove_job(ARGV[1], record)
redis.call("SET", KEYS[4], 1, "PX", ARGV[2])
return 1
