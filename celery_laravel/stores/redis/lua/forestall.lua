-- requires attempt.lua
-- Keep a job that has not started from ever starting.
-- KEYS[1] the job's entry   ARGV[1] keeping time in milliseconds
-- Returns 1 when it is kept so, by this call or an earlier one, and 0 when it has started.
local entry, keep = read_attempt(KEYS[1]), tonumber(ARGV[1])
if entry then return (entry.turn == 0 and entry.attempts == 0 and entry.state == "over") and 1 or 0 end
write_attempt(KEYS[1], {
    turn = 0, attempts = 0, exceptions = "0", state = "over", till = milliseconds(), keep = keep, token = "-", owner = "",
}, keep)
return 1
