-- requires batch.lua
-- Which members have ended.
-- KEYS and ARGV[1…3] as in batch.lua   ARGV[4…] indices
-- Returns a text with a 1 for each that has, and a 0 for any other.
local batch, flags = read_batch(), {}
for number = 4, #ARGV do
    local state = batch and member(batch, tonumber(ARGV[number]))
    table.insert(flags, (state and state ~= PENDING) and "1" or "0")
end
return table.concat(flags)
