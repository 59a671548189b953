-- requires delay.lua
-- Forget messages.
-- KEYS[1…6] as in delay.lua   ARGV the entries
-- Returns how many were there.
local removed = 0
for _, entry in ipairs(ARGV) do
    local delay = read_delay(entry)
    if delay then
        remove_delay(entry, delay, cjson.decode(delay.head))
        removed = removed + 1
    end
end
return removed
