-- requires lock.lua
-- Free a lock for its owner; returns the hold, nil when there was none.
-- KEYS[1] and KEYS[2] as in lock.lua   KEYS[3] what the owner holds
local function release_lock(key, name, owner, now)
    local holds = read_lock(key, now)
    local hold = holds[owner]
    if hold then
        holds[owner] = nil
        redis.call("HDEL", key, owner)
        expire_lock(key, holds)
        forget_hold(name, owner)
    end
    redis.call("ZREM", KEYS[3], name)
    expire_owner(KEYS[3])
    return hold
end
