-- requires lock.lua
-- Free a lock whoever holds it.
-- KEYS[1] and KEYS[2] as in lock.lua   KEYS[3] where the answer is kept, so that the call may be repeated
-- KEYS[4] the lock   KEYS[5…] what those hold who were seen to hold it
-- ARGV[1] milliseconds to keep the answer   ARGV[2] name
-- Returns how many holds there were.
local given = redis.call("GET", KEYS[3])
if given then return tonumber(given) end
local holds, count = read_lock(KEYS[4], tonumber(microseconds()))
for owner in pairs(holds) do forget_hold(ARGV[2], owner) end
redis.call("DEL", KEYS[4])
for number = 5, #KEYS do
    local key = KEYS[number]
    redis.call("ZREM", key, ARGV[2])
    expire_owner(key)
end
if count > 0 then redis.call("SET", KEYS[3], count, "PX", ARGV[1]) end
return count
