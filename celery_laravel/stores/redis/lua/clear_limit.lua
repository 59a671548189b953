-- requires limit.lua
-- Forget a grid.
-- KEYS[1] where the answer is kept, so that the call may be repeated   KEYS[2…4] the grid, as in limit.lua
-- ARGV[1] milliseconds to keep the answer
-- Returns 1 when something was counted in it, 0 otherwise.
if redis.call("EXISTS", KEYS[1]) == 1 then return 1 end
local grid = read_grid(2, tonumber(microseconds()))
if not grid.anchor then return 0 end
drop(grid)
redis.call("SET", KEYS[1], "1", "PX", ARGV[1])
return 1
