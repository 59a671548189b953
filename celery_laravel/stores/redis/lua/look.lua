-- requires limit.lua
-- What the current window has counted; nothing but what has passed is changed.
-- KEYS[1…3] a grid, as in limit.lua
-- Returns the count, and the microseconds until the window ends as text.
local now = tonumber(microseconds())
local grid = read_grid(1, now)
save(grid)
if not grid.anchor then return {0, "0"} end
local index = index_at(grid, now)
return {count_at(grid, index), text(start_of(grid, index + 1) - now)}
