-- requires lock.lua
-- The holds on locks.
-- KEYS the locks
-- Returns for each a list of owner, ENDS TAKEN LEASE, kind, task, owner…
local now, answer = tonumber(microseconds()), {}
for number, key in ipairs(KEYS) do
    local fields, holds = redis.call("HGETALL", key), {}
    for at = 1, #fields, 2 do
        local hold = read_hold(fields[at + 1], now)
        if hold then
            local ends = hold.ends == FOR_EVER and "-" or score(hold.ends)
            for _, value in ipairs({fields[at], ends .. " " .. hold.taken .. " " .. hold.lease, hold.kind, hold.task}) do
                table.insert(holds, value)
            end
        end
    end
    answer[number] = holds
end
return answer
