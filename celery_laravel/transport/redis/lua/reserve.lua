-- Take the next message of the first list that has one, and record it as held, in one step.
-- KEYS[1] the held messages   KEYS[2] when their holders were last heard of   KEYS[3..] the lists, in the order to ask
-- ARGV[1] the tag of this delivery   ARGV[2..] for each list, what follows the payload in the record; empty for a list
-- whose messages are gone with their delivery
-- Returns the number of the list, counted from 1, and the payload; nil when all are empty.

-- Neither is there. A key of the wrong type is an error here, before anything is taken; and a server whose memory is
-- full refuses a script's first write if it may grow, but none after one that cannot: so a full queue can be emptied.
redis.call("HDEL", KEYS[1], ARGV[1])
redis.call("ZREM", KEYS[2], ARGV[1])

for number = 1, #KEYS - 2 do
    local payload = redis.call("RPOP", KEYS[number + 2])
    if payload then
        local rest = ARGV[number + 1]
        if rest ~= "" then
            local now = redis.call("TIME")
            redis.call("HSET", KEYS[1], ARGV[1], "[" .. payload .. rest)
            redis.call("ZADD", KEYS[2], now[1] .. "." .. string.format("%06d", now[2]), ARGV[1])
        end
        return {number, payload}
    end
end
return nil
