-- Note that the holder of some messages is alive.
-- KEYS[1] when the holders of messages were last heard of   ARGV the tags
-- Returns how many of them are still held.
local time = redis.call("TIME")
local now = time[1] .. "." .. string.format("%06d", time[2])
local held = 0
for _, tag in ipairs(ARGV) do
    if redis.call("ZSCORE", KEYS[1], tag) then
        redis.call("ZADD", KEYS[1], "XX", now, tag)
        held = held + 1
    end
end
return held
