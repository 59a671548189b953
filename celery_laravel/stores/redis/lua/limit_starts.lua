-- requires limit.lua
-- Count starts in windows, and take them back.

-- The run of full windows that a window is in: the first in it and the first after it, or nil.
local function run_at(grid, index)
    local run = redis.call("ZREVRANGEBYSCORE", grid.full, text(index), "-inf", "WITHSCORES", "LIMIT", 0, 1)
    if run[1] and tonumber(run[1]) > index then return tonumber(run[2]), tonumber(run[1]) end
    return nil
end

local function add_run(grid, first, after)
    if first < after then
        redis.call("ZADD", grid.full, text(first), text(after))
        grid.changed = true
    end
end

local function mark_full(grid, index)
    local before, after = run_at(grid, index - 1), index + 1
    local follows, its_end = run_at(grid, after)
    if before then redis.call("ZREM", grid.full, text(index)) end
    if follows then
        redis.call("ZREM", grid.full, text(its_end))
        after = its_end
    end
    add_run(grid, before or index, after)
end

local function unmark_full(grid, index)
    local first, after = run_at(grid, index)
    if not first then return end
    redis.call("ZREM", grid.full, text(after))
    add_run(grid, first, index)
    add_run(grid, index + 1, after)
end

-- Know which windows are full by this limit: at once for the limit asked for last, else by looking at all.
local function find_full(grid, limit)
    if grid.limit == limit then return end
    local fields, full = redis.call("HGETALL", grid.counts), {}
    for number = 1, #fields, 2 do
        local index = tonumber(fields[number])
        if index and tonumber(fields[number + 1]) >= limit then table.insert(full, index) end
    end
    table.sort(full)
    redis.call("DEL", grid.full)
    grid.limit, grid.changed = limit, true
    local first, after
    for _, index in ipairs(full) do
        if index ~= after then
            if first then add_run(grid, first, after) end
            first = index
        end
        after = index + 1
    end
    if first then add_run(grid, first, after) end
end

-- The first instant, not before the given one, whose window has room.
local function with_room(grid, instant, limit)
    local index = index_at(grid, instant)
    if count_at(grid, index) < limit then return instant end
    find_full(grid, limit)
    local _, after = run_at(grid, index)
    return start_of(grid, after)
end

local function count(grid, index)
    local counted = redis.call("HINCRBY", grid.counts, text(index), 1)
    if index > grid.last then grid.last, grid.changed = index, true end
    if counted == grid.limit then mark_full(grid, index) end
    return counted
end

local function uncount(grid, index)
    local counted = count_at(grid, index)
    if counted == 0 then return end
    if counted == grid.limit then unmark_full(grid, index) end
    if counted == 1 then
        redis.call("HDEL", grid.counts, text(index))
        grid.has_uncounted = true
    else
        redis.call("HINCRBY", grid.counts, text(index), -1)
    end
end

-- The window in which a caller's start is kept, or nil.
local function kept_for(grid, caller) return tonumber(redis.call("ZSCORE", grid.kept, caller) or nil) end

-- Count a start, and keep it for a caller.
local function keep(grid, index, caller)
    count(grid, index)
    redis.call("HINCRBY", grid.counts, "u" .. text(index), 1)
    redis.call("ZADD", grid.kept, text(index), caller)
    grid.changed = true
end

-- Grant a start that is kept in a window, whoever it is kept for.
local function claim(grid, index)
    local field = "u" .. text(index)
    if redis.call("HINCRBY", grid.counts, field, -1) == 0 then redis.call("HDEL", grid.counts, field) end
end

-- Drop the start that is kept for a caller, unless another one was granted it.
local function drop_kept(grid, caller, index)
    redis.call("ZREM", grid.kept, caller)
    if unclaimed_at(grid, index) > 0 then
        claim(grid, index)
        uncount(grid, index)
    end
end
