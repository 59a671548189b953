-- requires lock_release.lua
-- Free a lock for its owner, and keep the payload left there in a hold of its own.
-- KEYS[1…3] as in lock_release.lua   KEYS[4] the lock   KEYS[5] the lock that keeps the payload
-- ARGV[1] and ARGV[2] the names of the two   ARGV[3] owner   ARGV[4] microseconds to keep it
-- Returns what is kept, nil when there is nothing.
local now, owner = tonumber(microseconds()), ARGV[3]
local freed = release_lock(KEYS[4], ARGV[1], owner, now)
local holds = read_lock(KEYS[5], now)
if freed and freed.payload then
    holds[owner] = {
        ends = now + tonumber(ARGV[4]), taken = score(now), lease = "0", token = "-", held = "0",
        kind = freed.kind, task = freed.task, payload = freed.payload,
    }
    write_hold(KEYS[5], owner, holds[owner])
    expire_lock(KEYS[5], holds)
    index_hold(KEYS[3], ARGV[2], owner, holds[owner])
end
return holds[owner] and holds[owner].payload
