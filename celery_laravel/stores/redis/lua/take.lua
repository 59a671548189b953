-- requires limit_starts.lua
-- Count a start in all windows, or in none and keep one for the caller.
-- KEYS[1] where the answer is kept, so that the call may be repeated   KEYS[2…4], KEYS[5…7]… grids, as in limit.lua
-- ARGV[1] milliseconds to keep the answer   ARGV[2] 1 with a caller, 2 with one that is overdue, else 0
-- ARGV[3] the caller   ARGV[4], ARGV[5], ARGV[6], ARGV[7]… limit and length in microseconds of each grid's windows
-- Returns the text GRANTED DELAY START…: 1 when granted, the delay and the beginning of each grid's window in
-- microseconds, where a start is counted or kept.
local given = redis.call("GET", KEYS[1])
if given then return given end
local now, caller = tonumber(microseconds()), ARGV[2] ~= "0" and ARGV[3] or nil
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

-- The windows in which starts are kept for the caller, if they are in all grids; else what is left of them is dropped.
local function find_kept()
    local kept, number_kept = {}, 0
    for number, grid in ipairs(grids) do
        kept[number] = kept_for(grid, caller)
        if kept[number] then number_kept = number_kept + 1 end
    end
    if number_kept == #grids then return kept end
    for number, grid in ipairs(grids) do
        if kept[number] then drop_kept(grid, caller, kept[number]) end
    end
    return nil
end

-- The instant at which the caller may have what is kept for it; nil when it has been granted to others, and is dropped.
local function claim_kept(kept)
    local begins, is_there = 0, true
    for number, grid in ipairs(grids) do begins = math.max(begins, start_of(grid, kept[number])) end
    if begins > now then return begins end
    for number, grid in ipairs(grids) do is_there = is_there and unclaimed_at(grid, kept[number]) > 0 end
    for number, grid in ipairs(grids) do
        if is_there then
            redis.call("ZREM", grid.kept, caller)
            claim(grid, kept[number])
        else
            drop_kept(grid, caller, kept[number])
        end
    end
    return is_there and begins or nil
end

-- Grant a start in the present windows, where need be one that is kept for others: these windows, or nil where one of
-- them has no more. Who is not overdue has what is kept for others only where the shortest of the windows is half over.
local function start_now(is_overdue)
    local windows, shortest = {}, math.huge
    for _, grid in ipairs(grids) do shortest = math.min(shortest, grid.length) end
    for number, grid in ipairs(grids) do
        local index = index_at(grid, now)
        local counted = count_at(grid, index)
        if counted >= grid.asked then
            local is_half_over = 2 * (now - start_of(grid, index)) >= grid.length
            if not (is_overdue or (grid.length == shortest and is_half_over)) then return nil end
            if counted - unclaimed_at(grid, index) >= grid.asked then return nil end
        end
        windows[number] = index
    end
    for number, grid in ipairs(grids) do
        local act = count_at(grid, windows[number]) < grid.asked and count or claim
        act(grid, windows[number])
    end
    return windows
end

if caller and #grids > 0 then
    local kept = find_kept()
    local begins = kept and claim_kept(kept)
    if begins then return answer(begins, kept) end
    local windows = start_now(kept ~= nil or ARGV[2] == "2")
    if windows then return answer(now, windows) end
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
        if instant > now then
            keep(grid, windows[number], caller)
        else
            count(grid, windows[number])
        end
    end
end
return answer(instant, windows)
