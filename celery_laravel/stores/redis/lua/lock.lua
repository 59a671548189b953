-- requires time.lua
-- What the scripts of locks share.
-- KEYS[1] all holds by the instant they were taken   KEYS[2] those that end by themselves, by when
-- Both are sorted sets of PLACE: LENGTH:NAME and OWNER without a blank between, where LENGTH is that of NAME.
-- A lock is a hash by owner of ENDS TAKEN LEASE TOKEN HELD KINDLENGTH TASKLENGTH LEFT:KIND TASK PAYLOAD, the last three
-- without blanks: ENDS and TAKEN are microseconds, ENDS is - for ever, TOKEN the call that took it last, HELD whether
-- that call found it held, LEFT whether there is a payload. What an owner holds is a sorted set of names by ENDS.
-- Each expires with the last hold in it.
local FOR_EVER, SWEPT_AT_ONCE = math.huge, 20

local function place(name, owner) return #name .. ":" .. name .. owner end

local function score(ends) return ends == FOR_EVER and "+inf" or string.format("%.0f", ends) end

local function expire(key, ends)
    if ends == FOR_EVER then
        redis.call("PERSIST", key)
    else
        redis.call("PEXPIREAT", key, string.format("%.0f", math.ceil(ends / 1000) + 1))
    end
end

-- A hold that lasts, or nil.
local function read_hold(text, now)
    if not text then return nil end
    local ends, taken, lease, token, held, kind, task, left, rest =
        string.match(text, "^(%S+) (%d+) ([01]) (%S+) ([01]) (%d+) (%d+) ([01]):()")
    ends, kind, task = ends == "-" and FOR_EVER or tonumber(ends), tonumber(kind), tonumber(task)
    if ends <= now then return nil end
    return {
        ends = ends, taken = taken, lease = lease, token = token, held = held,
        kind = string.sub(text, rest, rest + kind - 1),
        task = string.sub(text, rest + kind, rest + kind + task - 1),
        payload = left == "1" and string.sub(text, rest + kind + task) or nil,
    }
end

local function write_hold(key, owner, hold)
    local text = string.format(
        "%s %s %s %s %s %d %d %s:", hold.ends == FOR_EVER and "-" or score(hold.ends), hold.taken, hold.lease,
        hold.token, hold.held, #hold.kind, #hold.task, hold.payload and "1" or "0")
    redis.call("HSET", key, owner, text .. hold.kind .. hold.task .. (hold.payload or ""))
end

-- The holds on a lock that last, by owner, and how many; the others are removed.
local function read_lock(key, now)
    local fields, holds, count = redis.call("HGETALL", key), {}, 0
    for number = 1, #fields, 2 do
        local hold = read_hold(fields[number + 1], now)
        if hold then
            holds[fields[number]], count = hold, count + 1
        else
            redis.call("HDEL", key, fields[number])
        end
    end
    return holds, count
end

-- Let a lock expire with the last of its holds.
local function expire_lock(key, holds)
    local last
    for _, hold in pairs(holds) do last = math.max(last or 0, hold.ends) end
    if last then expire(key, last) end
end

-- Let what an owner holds expire with the last of it.
local function expire_owner(key)
    local last = redis.call("ZREVRANGE", key, 0, 0, "WITHSCORES")[2]
    if last then expire(key, last == "inf" and FOR_EVER or tonumber(last)) end
end

-- Put down in all indices when a hold ends.
local function index_hold(key, name, owner, hold)
    redis.call("ZADD", KEYS[1], hold.taken, place(name, owner))
    if hold.ends == FOR_EVER then
        redis.call("ZREM", KEYS[2], place(name, owner))
    else
        redis.call("ZADD", KEYS[2], score(hold.ends), place(name, owner))
    end
    redis.call("ZADD", key, score(hold.ends), name)
    expire_owner(key)
end

-- Take a hold that is gone out of the indices that are for all.
local function forget_hold(name, owner)
    redis.call("ZREM", KEYS[1], place(name, owner))
    redis.call("ZREM", KEYS[2], place(name, owner))
end

-- Forget some of the holds that have ended by themselves; returns how many.
local function sweep(now)
    local gone = redis.call("ZRANGEBYSCORE", KEYS[2], "-inf", score(now), "LIMIT", 0, SWEPT_AT_ONCE)
    if #gone > 0 then
        redis.call("ZREM", KEYS[1], unpack(gone))
        redis.call("ZREM", KEYS[2], unpack(gone))
    end
    return #gone
end
