-- requires failed_job.lua
-- One record.
-- KEYS[1] the records   KEYS[2] the claims   ARGV[1] job id
-- Returns the record and when its claim ends, "" where there is no claim; nil when there is no record.
local record = redis.call("HGET", KEYS[1], ARGV[1])
if not record then return nil end
local claim = read_claim(KEYS[2], ARGV[1], record)
return {record, claim and claim.ends or ""}
