-- requires debounce.lua
-- Whether the job of a place may run.
-- KEYS[1] as in debounce.lua   ARGV[1] period   ARGV[2] number
-- Returns nil when it may, else the id of the newer job.
local now, number = tonumber(microseconds()), tonumber(ARGV[2])
local period = read_period(tonumber(ARGV[1]), now)
if not period or string.find(period.started, "," .. text(number) .. ",", 1, true) then return nil end
if period.newest > number then return period.job end
if period.newest < number then period.newest, period.job = number, "" end
period.started = period.started .. text(number) .. ","
write_period(tonumber(ARGV[1]), period, now)
return nil
