-- requires debounce.lua
-- Reserve the next place under a key. A place that nobody learns of supersedes nobody, so the call may be repeated.
-- KEYS[1] as in debounce.lua
-- ARGV[1] microseconds to wait   ARGV[2] at longest, - without an end   ARGV[3] to keep what is known of the period
-- Returns the text PERIOD NUMBER DELAY, the last in microseconds.
local now, keep = tonumber(microseconds()), tonumber(ARGV[3])
local longest = ARGV[2] == "-" and math.huge or tonumber(ARGV[2])
local known = redis.call("HGET", KEYS[1], "key")
local number, opened, reserved, oldest = 0, 0, 0, 1
if known then
    number, opened, reserved, oldest = string.match(known, "^(%d+) (%d+) (%d+) (%d+)$")
    number, opened, reserved, oldest = tonumber(number), tonumber(opened), tonumber(reserved), tonumber(oldest)
end
local period = number > 0 and read_period(number, now)
if not period or period.started ~= "," or now >= opened + longest then
    while oldest <= number and not read_period(oldest, now) do
        redis.call("HDEL", KEYS[1], text(oldest))
        oldest = oldest + 1
    end
    if oldest > number then number, oldest = 0, 1 end
    number, opened, reserved = number + 1, now, 0
    period = {newest = 0, started = ",", job = ""}
end
reserved = reserved + 1
redis.call("HSET", KEYS[1], "key", table.concat({text(number), text(opened), text(reserved), text(oldest)}, " "))
write_period(number, period, now, keep)
local delay = math.min(tonumber(ARGV[1]), opened + longest - now)
return table.concat({text(number), text(reserved), text(delay)}, " ")
