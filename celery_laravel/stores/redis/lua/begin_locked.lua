-- requires attempt_start.lua
-- requires lock_request.lua
-- Start the next attempt of a job with the lock it needs, or say why not.
-- KEYS[1…3] as in lock_request.lua   KEYS[4] the lock   KEYS[5] the job's entry
-- ARGV[1…7] as in attempt_start.lua   ARGV[8…17] the request, as in lock_request.lua
-- Returns an answer as in attempt_start.lua.
return start_attempt(KEYS[5], function()
    local now, request = tonumber(microseconds()), read_request(8)
    local hold, owner = take_lock(KEYS[4], request, now)
    if owner == request.owner then return nil end
    local lasts = hold.ends == FOR_EVER and 0 or math.ceil((hold.ends - now) / 1000)
    return string.format("locked 0 0 %.0f ", lasts) .. owner
end)
