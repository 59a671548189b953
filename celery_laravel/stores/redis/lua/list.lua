-- requires failed_job.lua
-- One page of records, newest first.
-- KEYS[1] the records   KEYS[2] the index to go through   KEYS[3] the claims
-- ARGV[1] the end of the range and ARGV[2] its beginning, as ZREVRANGEBYLEX takes them   ARGV[3] at most so many
-- ARGV[4] how many bytes of the index's entries stand before PLACE:ID
-- Returns a list: the last place seen, followed by records and the ends of their claims in turn, as in find_failed.lua.
local places = redis.call("ZREVRANGEBYLEX", KEYS[2], ARGV[1], ARGV[2], "LIMIT", 0, ARGV[3])
if #places == 0 then return {} end
local page = {places[#places]}
for _, place in ipairs(places) do
    local id = string.match(string.sub(place, ARGV[4] + 1), "^%d+:%d+:(.*)$")
    local record = redis.call("HGET", KEYS[1], id)
    if record then
        local claim = read_claim(KEYS[3], id, record)
        table.insert(page, record)
        table.insert(page, claim and claim.ends or "")
    end
end
return page
