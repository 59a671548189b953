-- requires lock_request.lua
-- Take a lock, or one of its slots.
-- KEYS[1…3] as in lock_request.lua   KEYS[4] the lock   ARGV[1…10] the request, as in lock_request.lua
-- Returns the text TAKEN HELD LASTS OWNER: 1 when it was taken, 1 when the owner held it already, how many microseconds
-- the hold lasts or - for ever, and whose it is.
local now, request = tonumber(microseconds()), read_request(1)
local hold, owner = take_lock(KEYS[4], request, now)
local taken = owner == request.owner
local lasts = hold.ends == FOR_EVER and "-" or string.format("%.0f", hold.ends - now)
return string.format("%d %s %s ", taken and 1 or 0, taken and hold.held or "0", lasts) .. owner
