-- requires delay.lua
-- Give somebody messages that are due, and nobody else for a while.
-- KEYS[1…6] as in delay.lua   ARGV[1] at most so many   ARGV[2] microseconds for which nobody else is given them
-- Returns entries and records in turn.
local now = tonumber(microseconds())
local answer = {}
for _, entry in ipairs(redis.call("ZRANGEBYSCORE", KEYS[3], "-inf", now, "LIMIT", 0, ARGV[1])) do
    local record = redis.call("HGET", KEYS[1], entry)
    if record then
        redis.call("ZADD", KEYS[3], now + tonumber(ARGV[2]), entry)
        table.insert(answer, entry)
        table.insert(answer, record)
    else
        redis.call("ZREM", KEYS[3], entry)
    end
end
return answer
