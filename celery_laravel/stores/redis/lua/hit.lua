-- requires limit_starts.lua
-- Count a start whatever the limit.
-- KEYS[1] where the answer is kept, so that the call may be repeated   KEYS[2…4] a grid, as in limit.lua
-- ARGV[1] milliseconds to keep the answer   ARGV[2] length of the windows in microseconds
-- Returns how many starts the window then has.
local given = redis.call("GET", KEYS[1])
if given then return tonumber(given) end
local now = tonumber(microseconds())
local grid = open_grid(2, now, tonumber(ARGV[2]), 0)
local counted = count(grid, index_at(grid, now))
save(grid)
redis.call("SET", KEYS[1], counted, "PX", ARGV[1])
return counted
