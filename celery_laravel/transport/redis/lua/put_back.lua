-- Move a message that is still held to one or more lists.
-- KEYS[1] the held messages   KEYS[2] when their holders were last heard of   KEYS[3..] the lists
-- ARGV[1] its tag   ARGV[2] the payload   ARGV[3] RPUSH to have it taken next, LPUSH to have it taken last
-- ARGV[4] only if its holder was not heard of since (seconds since 1970), or empty
-- Returns 1 when it was moved, 0 when it is not held any more or its holder lives.
for number = 3, #KEYS do
    redis.call("LLEN", KEYS[number]) -- a key of the wrong type is an error here, before anything is changed
end
if ARGV[4] ~= "" then
    local seen = redis.call("ZSCORE", KEYS[2], ARGV[1])
    if seen and tonumber(seen) > tonumber(ARGV[4]) then
        return 0
    end
end
redis.call("ZREM", KEYS[2], ARGV[1])
if redis.call("HDEL", KEYS[1], ARGV[1]) == 0 then
    return 0
end
for number = 3, #KEYS do
    redis.call(ARGV[3], KEYS[number], ARGV[2])
end
return 1
