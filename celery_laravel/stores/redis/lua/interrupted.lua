-- requires failed_job.lua
-- requires time.lua
-- One page of a batch's records that have been claimed and not forgotten, less those whose claim lasts.
-- KEYS[1…5] as in failed_job.lua
-- ARGV[1] the beginning of the range of KEYS[5] and ARGV[2] its end, as ZRANGEBYLEX takes them   ARGV[3] at most so many
-- ARGV[4] how many bytes of the index's entries stand before the job's id
-- Returns a list as in list.lua.
local entries = redis.call("ZRANGEBYLEX", KEYS[5], ARGV[1], ARGV[2], "LIMIT", 0, ARGV[3])
if #entries == 0 then return {} end
local page, now = {entries[#entries]}, tonumber(microseconds())
for _, entry in ipairs(entries) do
    local id = string.sub(entry, ARGV[4] + 1)
    local record = redis.call("HGET", KEYS[1], id)
    local claim = record and read_claim(KEYS[4], id, record)
    if claim and tonumber(claim.ends) <= now then
        table.insert(page, record)
        table.insert(page, claim.ends)
    end
end
return page
