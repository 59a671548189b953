-- requires lock.lua
-- Let a hold that is no lease last from now on.
-- KEYS[1] and KEYS[2] as in lock.lua   KEYS[3] what the owner holds   KEYS[4] the lock
-- ARGV[1] name   ARGV[2] owner   ARGV[3] microseconds it lasts, - for ever
-- Returns 1 when there was such a hold, 0 otherwise.
local now = tonumber(microseconds())
local holds = read_lock(KEYS[4], now)
local hold = holds[ARGV[2]]
if not hold or hold.lease == "1" then return 0 end
hold.ends = ARGV[3] == "-" and FOR_EVER or now + tonumber(ARGV[3])
write_hold(KEYS[4], ARGV[2], hold)
expire_lock(KEYS[4], holds)
index_hold(KEYS[3], ARGV[1], ARGV[2], hold)
return 1
