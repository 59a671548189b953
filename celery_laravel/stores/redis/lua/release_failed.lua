-- requires failed_job.lua
-- requires time.lua
-- End the time for which one record is given to its owner alone.
-- KEYS[1…5] as in failed_job.lua   ARGV[1] job id   ARGV[2] the owner
-- Returns 1, or 0 when it is gone or another's.
local record = redis.call("HGET", KEYS[1], ARGV[1])
local claim = record and read_claim(KEYS[4], ARGV[1], record)
if not claim or claim.owner ~= ARGV[2] then return 0 end
claim.ends = microseconds()
write_claim(ARGV[1], claim)
return 1
