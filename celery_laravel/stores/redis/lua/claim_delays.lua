-- requires delay.lua
-- Give somebody messages that are due, and nobody else for a while.
-- KEYS[1…6] as in delay.lua   ARGV[1] at most so many, some thousand at most   ARGV[2] microseconds for which nobody else is
-- given them
-- Returns entries and records in turn.
local now = tonumber(microseconds())
local entries = redis.call("ZRANGEBYSCORE", KEYS[3], "-inf", now, "LIMIT", 0, ARGV[1])
local delays, missing = read_delays(entries)
if #missing > 0 then redis.call("ZREM", KEYS[3], unpack(missing)) end
local answer = {}
for _, delay in ipairs(delays) do
    redis.call("ZADD", KEYS[3], now + tonumber(ARGV[2]), delay.entry)
    table.insert(answer, delay.entry)
    table.insert(answer, delay.record)
end
return answer
