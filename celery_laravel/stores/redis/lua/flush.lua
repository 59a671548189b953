-- requires failed_job.lua
-- Remove the oldest records.
-- KEYS[1…5] as in failed_job.lua   ARGV[1] the end of the range of KEYS[2], as ZRANGEBYLEX takes it   ARGV[2] at most so many
-- Returns how many were removed.
local places = redis.call("ZRANGEBYLEX", KEYS[2], "-", ARGV[1], "LIMIT", 0, ARGV[2])
for _, place in ipairs(places) do
    local id = string.match(place, "^%d+:%d+:(.*)$")
    local record = redis.call("HGET", KEYS[1], id)
    if record then remove_job(id, record) else redis.call("ZREM", KEYS[2], place) end
end
return #places
