-- requires failed_job.lua
-- requires time.lua
-- Give one record to somebody, and to nobody else for a while.
-- KEYS[1…5] as in failed_job.lua
-- ARGV[1] job id   ARGV[2] the owner   ARGV[3] microseconds for which nobody else is given it   ARGV[4] its batch, or ""
-- Returns the record and when the claim ends, or nil when there is none or another's claim lasts.
local record = redis.call("HGET", KEYS[1], ARGV[1])
if not record then return nil end
local now, claim = tonumber(microseconds()), read_claim(KEYS[4], ARGV[1], record)
if claim and claim.owner ~= ARGV[2] and tonumber(claim.ends) > now then return nil end
local ends = string.format("%.0f", now + tonumber(ARGV[3]))
write_claim(ARGV[1], {ends = ends, place = read_head(record).place, owner = ARGV[2], batch = ARGV[4]})
return {record, ends}
