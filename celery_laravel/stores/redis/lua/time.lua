-- The server's clock.

-- Microseconds since the epoch as text of 16 digits: a number would lose its last ones when Lua writes it.
local function microseconds()
    local time = redis.call("TIME")
    return time[1] .. string.format("%06d", time[2])
end

-- Milliseconds since the epoch as a number.
local function milliseconds()
    local time = redis.call("TIME")
    return time[1] * 1000 + math.floor(time[2] / 1000)
end
