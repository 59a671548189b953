-- What the scripts of failed jobs share.
-- KEYS[1] the records, a hash by job id   KEYS[2] the index of all, sorted as text: PLACE:ID
-- KEYS[3] the index by queue, likewise: QUEUE, a zero byte, PLACE:ID
-- KEYS[4] the claims, a hash by job id   KEYS[5] the index of those by batch, likewise: BATCH, a zero byte, ID
-- A record is TOKEN PLACE LENGTH:QUEUE and the job as JSON, where TOKEN is the call that made it, PLACE the instant it
-- failed and the number of its arrival, and LENGTH that of QUEUE. So the job itself need not be read here.
-- A claim is END PLACE LENGTH:OWNER and the batch, which may be empty; END is in microseconds, PLACE that of the record,
-- and LENGTH that of OWNER. One whose PLACE is another is of a record that has gone.

local function read_head(record)
    local token, place, length, queue_at = string.match(record, "^(%S+) (%S+) (%d+):()")
    return {token = token, place = place, queue = string.sub(record, queue_at, queue_at + length - 1)}
end

local function read_claim(key, id, record)
    local claim = redis.call("HGET", key, id)
    if not claim then return nil end
    local ends, place, length, owner_at = string.match(claim, "^(%d+) (%S+) (%d+):()")
    if place ~= read_head(record).place then return nil end
    local batch_at = owner_at + length
    return {
        ends = ends, place = place, owner = string.sub(claim, owner_at, batch_at - 1), batch = string.sub(claim, batch_at)
    }
end

local function write_claim(id, claim)
    local words = claim.ends .. " " .. claim.place .. " " .. #claim.owner .. ":" .. claim.owner .. claim.batch
    redis.call("HSET", KEYS[4], id, words)
    if claim.batch ~= "" then redis.call("ZADD", KEYS[5], 0, claim.batch .. "\0" .. id) end
end

local function remove_job(id, record)
    local head, claim = read_head(record), read_claim(KEYS[4], id, record)
    redis.call("HDEL", KEYS[1], id)
    redis.call("ZREM", KEYS[2], head.place .. ":" .. id)
    redis.call("ZREM", KEYS[3], head.queue .. "\0" .. head.place .. ":" .. id)
    redis.call("HDEL", KEYS[4], id)
    if claim then redis.call("ZREM", KEYS[5], claim.batch .. "\0" .. id) end
end
