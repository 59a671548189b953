-- requires limit_starts.lua
-- Take back starts that were granted.
-- KEYS[1] where it is kept that this was done, so that the call may be repeated   KEYS[2…4], KEYS[5…7]… grids
-- ARGV[1] milliseconds to keep it   ARGV[2…] the beginning of each grid's window in microseconds
if not redis.call("SET", KEYS[1], "1", "PX", ARGV[1], "NX") then return 0 end
local now = tonumber(microseconds())
for number = 1, #ARGV - 1 do
    local grid = read_grid(3 * number - 1, now)
    if grid.anchor then
        local index = (tonumber(ARGV[number + 1]) - grid.anchor) / grid.length
        local is_window = index >= 0 and index == math.floor(index)
        if is_window and count_at(grid, index) > unclaimed_at(grid, index) then uncount(grid, index) end
        save(grid)
    end
end
return 1
