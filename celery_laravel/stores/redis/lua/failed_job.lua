-- What the scripts of failed jobs share.
-- KEYS[1] the records, a hash by job id   KEYS[2] the index of all, sorted as text: PLACE:ID
-- KEYS[3] the index by queue, likewise: QUEUE, a zero byte, PLACE:ID
-- A record is TOKEN PLACE LENGTH:QUEUE and the job as JSON, where TOKEN is the call that made it, PLACE the instant it
-- failed and the number of its arrival, and LENGTH that of QUEUE. So the job itself need not be read here.

local function read_head(record)
    local token, place, length, queue_at = string.match(record, "^(%S+) (%S+) (%d+):()")
    return {token = token, place = place, queue = string.sub(record, queue_at, queue_at + length - 1)}
end

local function remove_job(id, record)
    local head = read_head(record)
    redis.call("HDEL", KEYS[1], id)
    redis.call("ZREM", KEYS[2], head.place .. ":" .. id)
    redis.call("ZREM", KEYS[3], head.queue .. "\0" .. head.place .. ":" .. id)
end
