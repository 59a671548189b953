-- requires delay.lua
-- Have a message leave at once, as another.
-- KEYS[1…6] as in delay.lua   ARGV[1] entry   ARGV[2] the message
-- One that is claimed, so that it was due and is given to nobody yet, keeps its place.
-- Returns 1, or 0 when it is not there.
local delay = read_delays({ARGV[1]})[1]
if not delay then return 0 end
if delay.revoked == "1" then return 1 end
delay.revoked = "1"
write_delay(ARGV[1], delay, ARGV[2])
local now = tonumber(microseconds())
if tonumber(delay.due) > now then
    for _, key in ipairs({KEYS[2], KEYS[3]}) do redis.call("ZADD", key, "XX", now, ARGV[1]) end
end
return 1
