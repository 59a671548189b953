-- requires lock.lua
-- Extend leases.
-- KEYS[1] and KEYS[2] as in lock.lua   KEYS[3], KEYS[4], KEYS[5], KEYS[6]… what an owner holds and one lock of it, again
-- and again   ARGV[1] microseconds   ARGV[2], ARGV[3]… name and owner of each lock
-- Returns how many there were.
local now, renewed = tonumber(microseconds()), 0
local ends = now + tonumber(ARGV[1])
for number = 4, #KEYS, 2 do
    local key, name, owner = KEYS[number], ARGV[number - 2], ARGV[number - 1]
    local holds = read_lock(key, now)
    local hold = holds[owner]
    if hold and hold.lease == "1" then
        renewed = renewed + 1
        if hold.ends < ends then
            hold.ends = ends
            write_hold(key, owner, hold)
            expire_lock(key, holds)
            index_hold(KEYS[number - 1], name, owner, hold)
        end
    end
end
return renewed
