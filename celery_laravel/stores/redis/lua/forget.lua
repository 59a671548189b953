-- requires failed_job.lua
-- Remove one record.
-- KEYS[1…5] as in failed_job.lua   KEYS[6] set once it is done, so that the call may be repeated
-- ARGV[1] job id   ARGV[2] milliseconds to keep KEYS[6]   ARGV[3] who must have claimed it last, where that matters
-- Returns 1 when this call removed it, 0 otherwise.
if redis.call("EXISTS", KEYS[6]) == 1 then return 1 end
local record = redis.call("HGET", KEYS[1], ARGV[1])
if not record then return 0 end
if ARGV[3] then
    local claim = read_claim(KEYS[4], ARGV[1], record)
    if not claim or claim.owner ~= ARGV[3] then return 0 end
end
remove_job(ARGV[1], record)
redis.call("SET", KEYS[6], 1, "PX", ARGV[2])
return 1
