-- requires batch.lua
-- Count members that succeeded; those that have ended are left alone.
-- KEYS and ARGV[1…3] as in batch.lua   ARGV[4…] the members, as ranges FIRST, LAST
local batch = read_batch()
if not batch then return nil end
local now, due, moved = microseconds(), {}, 0

-- One by one: each of them makes callbacks of its own due.
local function move_each(first, last)
    for index = math.max(0, first), math.min(batch.total - 1, last) do
        if member(batch, index) == PENDING then
            set_member(index, SUCCEEDED)
            owe(batch, due, now, "progress", index)
            moved = moved + 1
        end
    end
end

if batch.progress == 0 then
    moved = move(batch, 4, PENDING, SUCCEEDED)
else
    for number = 4, #ARGV, 2 do move_each(tonumber(ARGV[number]), tonumber(ARGV[number + 1])) end
end
if moved == 0 then return answer(batch, false) end
batch.pending = batch.pending - moved
finish(batch, due, now)
write_batch(batch)
return answer(batch, true, due)
