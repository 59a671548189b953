-- requires failed_job.lua
-- Keep a failed job, also in the place of a record that somebody has claimed.
-- KEYS[1…5] as in failed_job.lua   KEYS[6] the number of the last arrival
-- ARGV[1] job id   ARGV[2] the instant it failed, microseconds as text of 17 digits   ARGV[3] queue   ARGV[4] the job
-- as JSON   ARGV[5] a token of this call, so that the call may be repeated when its answer was lost
-- Returns 1, or 0 when the id is there already.
local given = redis.call("HGET", KEYS[1], ARGV[1])
if given then
    if read_head(given).token == ARGV[5] then return 1 end
    if not read_claim(KEYS[4], ARGV[1], given) then return 0 end
    remove_job(ARGV[1], given)
end
local place = ARGV[2] .. ":" .. string.format("%014.0f", redis.call("INCR", KEYS[6]))
local record = ARGV[5] .. " " .. place .. " " .. #ARGV[3] .. ":" .. ARGV[3] .. ARGV[4]
redis.call("HSET", KEYS[1], ARGV[1], record)
redis.call("ZADD", KEYS[2], 0, place .. ":" .. ARGV[1])
redis.call("ZADD", KEYS[3], 0, ARGV[3] .. "\0" .. place .. ":" .. ARGV[1])
return 1
