-- requires time.lua
-- What the scripts of limits share.
-- A grid is three keys. `counts`: a hash with the starts counted by number of window, with how many of them are kept
-- and not granted to anybody yet by "u" and number, where there are any, and with the field "grid" of ANCHOR LENGTH
-- LIMIT OLDEST LAST: where window 0 begins and how long each lasts, in microseconds, by which limit windows are known
-- to be full, the oldest window that may still be there, and the latest in which a start was ever counted.
-- `full`: runs of full windows that touch, a sorted set of the first window after each by the first in it, so that the
-- first window with room is one look away however many wait. `kept`: the callers that wait, by window.
-- All three expire when the latest window has passed.

local function text(number) return string.format("%.0f", number) end

local function start_of(grid, index) return grid.anchor + index * grid.length end

local function index_at(grid, instant) return math.max(0, math.floor((instant - grid.anchor) / grid.length)) end

local function count_at(grid, index) return tonumber(redis.call("HGET", grid.counts, text(index)) or 0) end

local function unclaimed_at(grid, index) return tonumber(redis.call("HGET", grid.counts, "u" .. text(index)) or 0) end

-- Forget all of a grid.
local function drop(grid)
    redis.call("DEL", grid.counts, grid.full, grid.kept)
    grid.anchor = nil
end

local function is_empty(grid) return redis.call("HLEN", grid.counts) <= 1 end

-- Forget counts of windows before one: each in turn, or by looking at all where these are fewer.
local function forget_counts(grid, current)
    local passed = {}
    if current - grid.oldest <= redis.call("HLEN", grid.counts) then
        for index = grid.oldest, current - 1 do
            table.insert(passed, text(index))
            table.insert(passed, "u" .. text(index))
        end
    else
        for _, field in ipairs(redis.call("HKEYS", grid.counts)) do
            local index = tonumber(string.match(field, "^u?(%d+)$"))
            if index and index < current then table.insert(passed, field) end
        end
    end
    for first = 1, #passed, 1000 do
        redis.call("HDEL", grid.counts, unpack(passed, first, math.min(first + 999, #passed)))
    end
    grid.oldest, grid.changed = current, true
end

local function forget_before(grid, now)
    local current = index_at(grid, now)
    if current <= grid.oldest then return end
    if current > grid.last then return drop(grid) end
    forget_counts(grid, current)
    if is_empty(grid) then return drop(grid) end
    redis.call("ZREMRANGEBYSCORE", grid.kept, "-inf", "(" .. text(current))
    local run = redis.call("ZRANGE", grid.full, 0, 0)[1]
    while run and tonumber(run) <= current do
        redis.call("ZREM", grid.full, run)
        run = redis.call("ZRANGE", grid.full, 0, 0)[1]
    end
end

-- The grid whose keys are KEYS[first…first + 2]; without an anchor when nothing is counted in it from now on.
local function read_grid(first, now)
    local grid = {counts = KEYS[first], full = KEYS[first + 1], kept = KEYS[first + 2]}
    local known = redis.call("HGET", grid.counts, "grid")
    if known then
        local anchor, length, limit, oldest, last = string.match(known, "^(%d+) (%d+) (%d+) (%d+) (%d+)$")
        grid.anchor, grid.length, grid.limit = tonumber(anchor), tonumber(length), tonumber(limit)
        grid.oldest, grid.last = tonumber(oldest), tonumber(last)
        forget_before(grid, now)
    end
    return grid
end

-- The same for windows of this length, begun anew where there is none; `limit` 0 when none is asked for.
local function open_grid(first, now, length, limit)
    local grid = read_grid(first, now)
    if grid.anchor and grid.length ~= length then drop(grid) end
    if not grid.anchor then
        grid.anchor, grid.length, grid.limit, grid.oldest, grid.last = now, length, limit, 0, 0
        grid.changed, grid.is_new = true, true
        redis.call("HSET", grid.counts, "grid", "")
    end
    return grid
end

-- Write down what has changed of a grid, or forget it when nothing is counted in it.
local function save(grid)
    if not grid.anchor then return end
    if (grid.is_new or grid.has_uncounted) and is_empty(grid) then return drop(grid) end
    if not grid.changed then return end
    local parts = {text(grid.anchor), text(grid.length), text(grid.limit), text(grid.oldest), text(grid.last)}
    redis.call("HSET", grid.counts, "grid", table.concat(parts, " "))
    local ends = text(math.ceil(start_of(grid, grid.last + 1) / 1000) + 1)
    redis.call("PEXPIREAT", grid.counts, ends)
    redis.call("PEXPIREAT", grid.full, ends)
    redis.call("PEXPIREAT", grid.kept, ends)
end
