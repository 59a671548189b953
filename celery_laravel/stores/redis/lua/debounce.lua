-- requires time.lua
-- What the scripts of debounced jobs share.
-- KEYS[1] a key's periods: a hash with the field "key" of PERIOD OPENED RESERVED OLDEST, the latest period, the instant
-- it was opened, the places reserved in it and the oldest that may still be there, and a field for each period of ENDS
-- NEWEST STARTED JOB: when it is forgotten, the highest number confirmed or started, the numbers that have started as
-- ,1,2, and the newest one's job. Instants are microseconds. The hash expires with the last period in it.

local function text(number) return string.format("%.0f", number) end

local function read_period(number, now)
    local entry = redis.call("HGET", KEYS[1], text(number))
    if not entry then return nil end
    local ends, newest, started, job = string.match(entry, "^(%d+) (%d+) (%S+) (.*)$")
    if tonumber(ends) <= now then return nil end
    return {ends = tonumber(ends), newest = tonumber(newest), started = started, job = job}
end

-- Write a period; it is kept for so long from now, or as it was without `keep`.
local function write_period(number, period, now, keep)
    if keep then period.ends = now + keep end
    local words = {text(period.ends), text(period.newest), period.started, period.job}
    redis.call("HSET", KEYS[1], text(number), table.concat(words, " "))
    if keep and redis.call("PTTL", KEYS[1]) * 1000 <= keep then
        redis.call("PEXPIREAT", KEYS[1], text(math.ceil(period.ends / 1000) + 1))
    end
end
