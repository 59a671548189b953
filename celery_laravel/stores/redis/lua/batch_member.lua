-- requires batch.lua
-- Bring a member to its end, and those it skips; returns the script's answer.
-- ARGV[4] index   ARGV[5] state   ARGV[6] id of its job   ARGV[7] exception as JSON   ARGV from `skips` on: ranges
local function end_member(skips)
    local batch = read_batch()
    if not batch then return nil end
    local index, state = tonumber(ARGV[4]), tonumber(ARGV[5])
    if member(batch, index) ~= PENDING then return answer(batch, false) end
    local now, due = microseconds(), {}
    set_member(index, state)
    local skipped = move(batch, skips, PENDING, SKIPPED)
    batch.pending = batch.pending - 1 - skipped
    batch.skipped = batch.skipped + skipped
    if state == SKIPPED then batch.skipped = batch.skipped + 1 end
    if state == SUCCEEDED then owe(batch, due, now, "progress", index) end
    if state == FAILED then
        batch.failed = batch.failed + 1
        redis.call("HSET", KEYS[3], index, ARGV[6])
        if batch.allows == "1" and batch.failure > 0 then
            local occasion = redis.call("HINCRBY", KEYS[1], "failures", 1)
            owe(batch, due, now, "failure", occasion)
            for position = 0, batch.failure - 1 do -- its exception, until the callback has been sent
                redis.call("HSET", KEYS[1], "failure:" .. position .. ":" .. occasion, ARGV[7])
            end
        end
        if batch.allows == "0" and batch.cancelled == "-" then batch.cancelled = now end
        if not string.find(batch.fired, "catch", 1, true) then
            redis.call("HSET", KEYS[1], "exception", ARGV[7])
            fire(batch, due, now, "catch")
        end
    end
    finish(batch, due, now)
    write_batch(batch)
    return answer(batch, true, due)
end
