-- requires limit_starts.lua
-- Drop what is kept for a caller.
-- KEYS grids, as in limit.lua   ARGV[1] the caller
-- Returns how many starts were dropped.
local now, dropped = tonumber(microseconds()), 0
for number = 1, #KEYS, 3 do
    local grid = read_grid(number, now)
    local index = grid.anchor and kept_for(grid, ARGV[1])
    if index then
        drop_kept(grid, ARGV[1], index)
        dropped = dropped + 1
    end
    save(grid)
end
return dropped
