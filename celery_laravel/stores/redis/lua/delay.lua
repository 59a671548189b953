-- requires time.lua
-- What the scripts of delayed jobs share.
-- KEYS[1] the records, a hash by entry   KEYS[2] those that are pushed, by when   KEYS[3] those that are claimed, by when
-- KEYS[4] the index by job, sorted as text: JOB, a zero byte, ENTRY   KEYS[5] the index by due instant: DUE:ENTRY
-- KEYS[6] the index by queue: QUEUE, a zero byte, DUE:ENTRY
-- A record is DUE PARKED REVOKED HEAD, a line's end and the message, where DUE and PARKED are microseconds as text of 16
-- digits, REVOKED is 0 or 1, and HEAD is {job, task, queue, target} as JSON, in one line; the target is missing where
-- somebody claims the message.

local function parse_delay(entry, record)
    local due, parked, revoked, head, message_at = string.match(record, "^(%d+) (%d+) (%d) ([^\n]*)\n()")
    return {
        entry = entry, due = due, parked = parked, revoked = revoked, head = head, message_at = message_at, record = record,
    }
end

local function write_delay(entry, delay, message)
    local words = delay.due .. " " .. delay.parked .. " " .. delay.revoked .. " " .. delay.head
    redis.call("HSET", KEYS[1], entry, words .. "\n" .. message)
end

local function message_of(delay) return string.sub(delay.record, delay.message_at) end

-- Those of the entries that are there, in their order, and the names of those that are not.
local function read_delays(entries)
    local delays, missing = {}, {}
    if #entries == 0 then return delays, missing end
    local records = redis.call("HMGET", KEYS[1], unpack(entries))
    for number, entry in ipairs(entries) do
        if records[number] then
            table.insert(delays, parse_delay(entry, records[number]))
        else
            table.insert(missing, entry)
        end
    end
    return delays, missing
end

-- Forget messages: one command for each key, whatever their number. A head may have been decoded already.
local function remove_delays(delays)
    if #delays == 0 then return end
    local entries, by_job, by_due, by_queue = {}, {}, {}, {}
    for number, delay in ipairs(delays) do
        local head = delay.decoded or cjson.decode(delay.head)
        entries[number] = delay.entry
        by_job[number] = head.job .. "\0" .. delay.entry
        by_due[number] = delay.due .. ":" .. delay.entry
        by_queue[number] = head.queue .. "\0" .. delay.due .. ":" .. delay.entry
    end
    redis.call("HDEL", KEYS[1], unpack(entries))
    redis.call("ZREM", KEYS[2], unpack(entries))
    redis.call("ZREM", KEYS[3], unpack(entries))
    redis.call("ZREM", KEYS[4], unpack(by_job))
    redis.call("ZREM", KEYS[5], unpack(by_due))
    redis.call("ZREM", KEYS[6], unpack(by_queue))
end
