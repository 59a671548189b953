-- requires delay.lua
-- Forget messages.
-- KEYS[1…6] as in delay.lua   ARGV the entries, some thousand at most, each once
-- Returns how many were there.
local delays = read_delays(ARGV)
remove_delays(delays)
return #delays
