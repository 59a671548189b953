-- requires delay.lua
-- Keep messages until they are due.
-- KEYS[1…6] as in delay.lua   ARGV six for each message: entry, microseconds until it is due, job, queue, HEAD as in
-- delay.lua, the message; and before all of them the number of those that have a target, which come first
-- Entries that are there already are left alone.
local now = microseconds()
local pushed = tonumber(ARGV[1])
for at = 2, #ARGV, 6 do
    local entry, job, queue = ARGV[at], ARGV[at + 2], ARGV[at + 3]
    if redis.call("HEXISTS", KEYS[1], entry) == 0 then
        local due = string.format("%016.0f", math.min(tonumber(now) + tonumber(ARGV[at + 1]), 9e15))
        write_delay(entry, {due = due, parked = now, revoked = "0", head = ARGV[at + 4]}, ARGV[at + 5])
        local key = (at - 2) / 6 < pushed and KEYS[2] or KEYS[3]
        redis.call("ZADD", key, due, entry)
        redis.call("ZADD", KEYS[4], 0, job .. "\0" .. entry)
        redis.call("ZADD", KEYS[5], 0, due .. ":" .. entry)
        redis.call("ZADD", KEYS[6], 0, queue .. "\0" .. due .. ":" .. entry)
    end
end
return 1
