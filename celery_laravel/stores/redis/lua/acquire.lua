-- requires lock_request.lua
-- Take a lock, or one of its slots.
-- KEYS[1…3] as in lock_request.lua   KEYS[4] the lock   ARGV[1…10] the request, as in lock_request.lua
-- Returns what lock_answer says.
local now, request = tonumber(microseconds()), read_request(1)
local hold, owner = take_lock(KEYS[4], request, now)
return lock_answer(request, hold, owner, now)
