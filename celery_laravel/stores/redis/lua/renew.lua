-- requires attempt.lua
-- Extend leases.
-- KEYS the jobs' entries   ARGV[1] lease in milliseconds   ARGV[2…] the owner of each, in the order of KEYS
-- Returns a text with 1 for each lease that was still held, and 0 for each that was not.
local lease, now, held = tonumber(ARGV[1]), milliseconds(), {}
for number, key in ipairs(KEYS) do
    local entry = read_attempt(key)
    if entry and entry.state == "open" and entry.owner == ARGV[number + 1] then
        entry.till = now + lease
        write_attempt(key, entry, math.max(lease, entry.keep))
        held[number] = "1"
    else
        held[number] = "0"
    end
end
return table.concat(held)
