-- One page of messages that wait, in the order of an index.
-- KEYS[1] the records   KEYS[2] the index to go through
-- ARGV[1] the beginning of the range and ARGV[2] its end, as ZRANGEBYLEX takes them   ARGV[3] at most so many
-- ARGV[4] how many bytes of the index's entries stand before ENTRY
-- Returns a list: the last place seen, followed by entries and records in turn.
local places = redis.call("ZRANGEBYLEX", KEYS[2], ARGV[1], ARGV[2], "LIMIT", 0, ARGV[3])
if #places == 0 then return {} end
local page = {places[#places]}
for _, place in ipairs(places) do
    local entry = string.sub(place, ARGV[4] + 1)
    local record = redis.call("HGET", KEYS[1], entry)
    if record then
        table.insert(page, entry)
        table.insert(page, record)
    end
end
return page
