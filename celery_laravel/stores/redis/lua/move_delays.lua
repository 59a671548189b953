-- requires delay.lua
-- Push messages that are due to the lists that their records name.
-- KEYS[1…6] as in delay.lua   ARGV[1] at most so many   ARGV[2] microseconds after which one that its list does not take
-- is tried again
-- The lists are not among KEYS: which they are is only known here. Nothing but a single server runs this.
-- Returns a list: how many were pushed, and what the server said of each one that was not.
local now = tonumber(microseconds())
local moved, answer = 0, {}
for _, entry in ipairs(redis.call("ZRANGEBYSCORE", KEYS[2], "-inf", now, "LIMIT", 0, ARGV[1])) do
    local delay = read_delay(entry)
    if delay then
        local head = cjson.decode(delay.head)
        local pushed = redis.pcall("LPUSH", head.target, message_of(delay))
        if type(pushed) == "table" and pushed.err then
            redis.call("ZADD", KEYS[2], now + tonumber(ARGV[2]), entry)
            table.insert(answer, head.target .. ": " .. pushed.err)
        else
            remove_delay(entry, delay, head)
            moved = moved + 1
        end
    else
        redis.call("ZREM", KEYS[2], entry)
    end
end
table.insert(answer, 1, moved)
return answer
