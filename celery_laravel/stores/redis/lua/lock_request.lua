-- requires lock.lua
-- Take a lock.
-- KEYS[1] and KEYS[2] as in lock.lua   KEYS[3] what the owner holds

-- A request from ten arguments: name, owner, kind, task, microseconds it lasts or - for ever, 1 for a lease, slots,
-- 1 with a payload, the payload, and a token of this call, so that it may be repeated when its answer was lost.
local function read_request(first)
    return {
        name = ARGV[first], owner = ARGV[first + 1], kind = ARGV[first + 2], task = ARGV[first + 3],
        lasts = ARGV[first + 4] == "-" and FOR_EVER or tonumber(ARGV[first + 4]), lease = ARGV[first + 5],
        slots = tonumber(ARGV[first + 6]), payload = ARGV[first + 7] == "1" and ARGV[first + 8] or nil,
        token = ARGV[first + 9],
    }
end

-- Returns the hold and its owner: the one that was taken, or the one that ends first among those in the way. What check
-- raises, if given, is raised before anything is written.
local function take_lock(key, request, now, check)
    local holds, count = read_lock(key, now)
    local mine = holds[request.owner]
    if mine and mine.token == request.token then return mine, request.owner end
    if not mine and count >= request.slots then
        local first, holder
        for owner, hold in pairs(holds) do
            if not first or hold.ends < first.ends or (hold.ends == first.ends and owner < holder) then
                first, holder = hold, owner
            end
        end
        if request.payload then
            first.payload = request.payload
            write_hold(key, holder, first)
        end
        return first, holder
    end
    if check then check() end
    sweep(now)
    local hold = {
        ends = request.lasts == FOR_EVER and FOR_EVER or now + request.lasts,
        taken = mine and mine.taken or score(now), lease = request.lease, token = request.token,
        held = mine and "1" or "0", kind = request.kind, task = request.task, payload = mine and mine.payload,
    }
    holds[request.owner] = hold
    write_hold(key, request.owner, hold)
    expire_lock(key, holds)
    index_hold(KEYS[3], request.name, request.owner, hold)
    return hold, request.owner
end

-- What a caller is told of it, as a text: TAKEN HELD LASTS OWNER: 1 when it was taken, 1 when the owner held it already,
-- how many microseconds the hold lasts or - for ever, and whose it is.
local function lock_answer(request, hold, owner, now)
    local taken = owner == request.owner
    local lasts = hold.ends == FOR_EVER and "-" or string.format("%.0f", hold.ends - now)
    return string.format("%d %s %s ", taken and 1 or 0, taken and hold.held or "0", lasts) .. owner
end
