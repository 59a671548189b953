-- requires limit_starts.lua
-- Count a start in all windows, or in none and keep one for the caller.
-- KEYS[1] where the answer is kept, so that the call may be repeated   KEYS[2…4], KEYS[5…7]… grids, as in limit.lua
-- ARGV[1] milliseconds to keep the answer   ARGV[2] 1 with a caller   ARGV[3] the caller
-- ARGV[4], ARGV[5], ARGV[6], ARGV[7]… limit and length in microseconds of each grid's windows
-- Returns the text GRANTED DELAY START…: 1 when granted, the delay and the beginning of each grid's window in
-- microseconds, where a start is counted or kept.
local given = redis.call("GET", KEYS[1])
if given then return given end
local now, caller = tonumber(microseconds()), ARGV[2] == "1" and ARGV[3] or nil
local grids = {}
for number = 1, (#KEYS - 1) / 3 do
    local limit, length = tonumber(ARGV[2 + 2 * number]), tonumber(ARGV[3 + 2 * number])
    grids[number] = open_grid(3 * number - 1, now, length, limit)
    grids[number].asked = limit
end

local function answer(instant, windows)
    local parts = {instant <= now and "1" or "0", text(math.max(0, instant - now))}
    for number, index in ipairs(windows) do table.insert(parts, text(start_of(grids[number], index))) end
    local words = table.concat(parts, " ")
    for _, grid in ipairs(grids) do save(grid) end
    if instant <= now and #grids > 0 then redis.call("SET", KEYS[1], words, "PX", ARGV[1]) end
    return words
end

if caller and #grids > 0 then
    local kept, begins, number_kept = {}, 0, 0
    for number, grid in ipairs(grids) do
        kept[number] = kept_for(grid, caller)
        if kept[number] then
            number_kept, begins = number_kept + 1, math.max(begins, start_of(grid, kept[number]))
        end
    end
    if number_kept == #grids then
        if begins <= now then
            for _, grid in ipairs(grids) do redis.call("ZREM", grid.kept, caller) end
        end
        return answer(begins, kept)
    end
    for number, grid in ipairs(grids) do
        if kept[number] then drop_kept(grid, caller, kept[number]) end
    end
end

local instant, before = now, nil
while instant ~= before do
    before = instant
    for _, grid in ipairs(grids) do instant = with_room(grid, instant, grid.asked) end
end
local windows = {}
if instant <= now or caller then
    for number, grid in ipairs(grids) do
        windows[number] = index_at(grid, instant)
        count(grid, windows[number])
        if instant > now then
            redis.call("ZADD", grid.kept, text(windows[number]), caller)
            grid.changed = true
        end
    end
end
return answer(instant, windows)
