-- requires time.lua
-- What the scripts of delayed jobs share.
-- KEYS[1] the records, a hash by entry   KEYS[2] those that are pushed, by when   KEYS[3] those that are claimed, by when
-- KEYS[4] the index by job, sorted as text: JOB, a zero byte, ENTRY   KEYS[5] the index by due instant: DUE:ENTRY
-- KEYS[6] the index by queue: QUEUE, a zero byte, DUE:ENTRY
-- A record is DUE PARKED REVOKED HEAD, a line's end and the message, where DUE and PARKED are microseconds as text of 16
-- digits, REVOKED is 0 or 1, and HEAD is {job, task, queue, target} as JSON, in one line; the target is missing where
-- somebody claims the message.

local function read_delay(entry)
    local record = redis.call("HGET", KEYS[1], entry)
    if not record then return nil end
    local due, parked, revoked, head, message_at = string.match(record, "^(%d+) (%d+) (%d) ([^\n]*)\n()")
    return {due = due, parked = parked, revoked = revoked, head = head, message_at = message_at, record = record}
end

local function write_delay(entry, delay, message)
    local words = delay.due .. " " .. delay.parked .. " " .. delay.revoked .. " " .. delay.head
    redis.call("HSET", KEYS[1], entry, words .. "\n" .. message)
end

local function message_of(delay) return string.sub(delay.record, delay.message_at) end

local function remove_delay(entry, delay, head)
    redis.call("HDEL", KEYS[1], entry)
    redis.call("ZREM", KEYS[2], entry)
    redis.call("ZREM", KEYS[3], entry)
    redis.call("ZREM", KEYS[4], head.job .. "\0" .. entry)
    redis.call("ZREM", KEYS[5], delay.due .. ":" .. entry)
    redis.call("ZREM", KEYS[6], head.queue .. "\0" .. delay.due .. ":" .. entry)
end
