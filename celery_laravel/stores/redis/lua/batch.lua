-- requires time.lua
-- What the scripts of batches share. Every one of them takes
-- KEYS[1] the batch, a hash   KEYS[2] its members, 2 bits each   KEYS[3] the ids of its failed jobs, by index
-- KEYS[4] the due marks of all batches of the shard, by the instant they became due
-- ARGV[1] the batch's id
-- ARGV[2] the instant of creation of the batch whose fixed part the caller knows, or nothing
-- ARGV[3] 1 when the caller knows the first exception too
-- and returns nil when the batch is not known, otherwise what answer() says.

local PENDING, SUCCEEDED, FAILED, SKIPPED = 0, 1, 2, 3
local RANK = {before = 0, progress = 1, failure = 2, catch = 3, ["then"] = 4, next = 5, finally = 6} -- their order
local NAMED = 100
local SLICE = 1000 -- members to a command: Lua bounds how many arguments a call takes

local function read_batch()
    local value = redis.call(
        "HMGET", KEYS[1], "created", "total", "pending", "failed", "skipped", "open", "allows", "cancelled", "finished",
        "fired", "then", "catch", "next", "finally", "progress", "failure")
    if not value[1] then return nil end
    return {
        created = value[1], total = tonumber(value[2]), pending = tonumber(value[3]), failed = tonumber(value[4]),
        skipped = tonumber(value[5]), open = value[6], allows = value[7], cancelled = value[8], finished = value[9],
        fired = value[10], ["then"] = tonumber(value[11]), catch = tonumber(value[12]), next = tonumber(value[13]),
        finally = tonumber(value[14]), progress = tonumber(value[15]), failure = tonumber(value[16]),
    }
end

local function write_batch(batch)
    redis.call(
        "HSET", KEYS[1], "total", batch.total, "pending", batch.pending, "failed", batch.failed,
        "skipped", batch.skipped, "open", batch.open, "cancelled", batch.cancelled, "finished", batch.finished,
        "fired", batch.fired)
end

-- The ids of its failed jobs, or some of them, which stay the same as long as none fails or is retried.
local function named(batch)
    if batch.failed <= NAMED then return redis.call("HVALS", KEYS[3]) end
    local ids, cursor = {}, "0"
    repeat
        local page = redis.call("HSCAN", KEYS[3], cursor, "COUNT", NAMED)
        cursor = page[1]
        for place = 2, #page[2], 2 do
            if #ids < NAMED then table.insert(ids, page[2][place]) end
        end
    until #ids == NAMED or cursor == "0"
    return ids
end

-- The batch as text, CHANGED TOTAL PENDING FAILED SKIPPED OPEN ALLOWS CREATED CANCELLED FINISHED DUE, where - stands
-- for none, and what is due is KIND,KIND:OCCASION… If the caller lacks more, a list: that text, the fixed part, the
-- first exception, the failed ids, each as JSON or empty. Of more than a few failed jobs, `names` gives some ids;
-- otherwise none.
local function answer(batch, changed, due, names)
    local head = table.concat({
        changed and 1 or 0, batch.total, batch.pending, batch.failed, batch.skipped, batch.open, batch.allows,
        batch.created, batch.cancelled, batch.finished, due and #due > 0 and table.concat(due, ",") or "-",
    }, " ")
    local is_known = ARGV[2] == batch.created
    local has_caught = string.find(batch.fired, "catch", 1, true)
    local wants_exception = has_caught and not (is_known and ARGV[3] == "1")
    local wants_ids = batch.failed > 0 and (names or batch.failed <= NAMED)
    if is_known and not wants_exception and not wants_ids then return head end
    return {
        head,
        is_known and "" or redis.call("HGET", KEYS[1], "fixed"),
        wants_exception and redis.call("HGET", KEYS[1], "exception") or "",
        wants_ids and cjson.encode(named(batch)) or "",
    }
end

-- The due mark of a callback; the occasion is a number for kinds that come more than once, else nothing.
local function mark(kind, position, occasion)
    return string.format("%d:%s:%06d:%s:%s", RANK[kind], kind, position, occasion or "-", ARGV[1])
end

local function owe(batch, due, now, kind, occasion)
    if batch[kind] == 0 then return end
    table.insert(due, occasion and kind .. ":" .. occasion or kind)
    for position = 0, batch[kind] - 1 do
        redis.call("ZADD", KEYS[4], now, mark(kind, position, occasion))
    end
end

local function fire(batch, due, now, kind)
    if string.find(batch.fired, kind, 1, true) then return end
    batch.fired = batch.fired .. " " .. kind
    owe(batch, due, now, kind)
end

local function finish(batch, due, now)
    if batch.open == "1" or batch.pending > 0 then return end
    batch.finished = now
    local all_succeeded = batch.failed == 0 and batch.skipped == 0
    local is_broken = batch.allows == "0" and string.find(batch.fired, "catch", 1, true)
    if all_succeeded then fire(batch, due, now, "then") end
    if all_succeeded or not is_broken then fire(batch, due, now, "next") end
    fire(batch, due, now, "finally")
end

local function member(batch, index)
    if index < 0 or index >= batch.total then return nil end
    return redis.call("BITFIELD", KEYS[2], "GET", "u2", "#" .. index)[1]
end

local function set_member(index, state)
    redis.call("BITFIELD", KEYS[2], "SET", "u2", "#" .. index, state)
end

local function move_slice(first, last, before, after)
    local get, set, moved = {}, {}, 0
    for index = first, last do
        table.insert(get, "GET") table.insert(get, "u2") table.insert(get, "#" .. index)
    end
    for number, state in ipairs(redis.call("BITFIELD", KEYS[2], unpack(get))) do
        if state == before then
            table.insert(set, "SET") table.insert(set, "u2")
            table.insert(set, "#" .. (first + number - 1)) table.insert(set, after)
            moved = moved + 1
        end
    end
    if moved > 0 then redis.call("BITFIELD", KEYS[2], unpack(set)) end
    return moved
end

-- Move the members of the ranges FIRST, LAST, FIRST, LAST… in ARGV from `at` on; returns how many were moved.
local function move(batch, at, before, after)
    local moved = 0
    for number = at, #ARGV, 2 do
        local first = math.max(0, tonumber(ARGV[number]))
        local last = math.min(batch.total - 1, tonumber(ARGV[number + 1]))
        for start = first, last, SLICE do
            moved = moved + move_slice(start, math.min(last, start + SLICE - 1), before, after)
        end
    end
    return moved
end
