-- requires debounce.lua
-- Say that the job of a place has been published.
-- KEYS[1] as in debounce.lua   ARGV[1] period   ARGV[2] number   ARGV[3] id of the job   ARGV[4] microseconds to keep it
-- Returns 1 when it is the newest of its period, 0 otherwise.
local now, number = tonumber(microseconds()), tonumber(ARGV[2])
local period = read_period(tonumber(ARGV[1]), now)
if not period or number < period.newest then return 0 end
period.newest, period.job = number, ARGV[3]
write_period(tonumber(ARGV[1]), period, now, tonumber(ARGV[4]))
return 1
