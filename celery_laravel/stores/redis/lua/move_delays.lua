-- requires delay.lua
-- Push messages that are due to the lists that their records name.
-- KEYS[1…6] as in delay.lua   ARGV[1] at most so many, some thousand at most   ARGV[2] microseconds after which those that
-- their list does not take are tried again
-- The lists are not among KEYS: which they are is only known here. Nothing but a single server runs this.
-- Returns a list: how many were pushed, and what the server said of each list that did not take its messages.
local now = tonumber(microseconds())
local entries = redis.call("ZRANGEBYSCORE", KEYS[2], "-inf", now, "LIMIT", 0, ARGV[1])
local delays, missing = read_delays(entries)
if #missing > 0 then redis.call("ZREM", KEYS[2], unpack(missing)) end
local targets, of_target = {}, {}
for _, delay in ipairs(delays) do
    delay.decoded = cjson.decode(delay.head)
    local target = delay.decoded.target
    if not of_target[target] then
        of_target[target] = {messages = {}, delays = {}}
        table.insert(targets, target)
    end
    table.insert(of_target[target].messages, message_of(delay))
    table.insert(of_target[target].delays, delay)
end
local moved, answer = 0, {}
for _, target in ipairs(targets) do
    local group = of_target[target]
    local pushed = redis.pcall("LPUSH", target, unpack(group.messages))
    if type(pushed) == "table" and pushed.err then
        for _, delay in ipairs(group.delays) do
            redis.call("ZADD", KEYS[2], now + tonumber(ARGV[2]), delay.entry)
        end
        table.insert(answer, #group.delays .. " for " .. target .. ": " .. pushed.err)
    else
        remove_delays(group.delays)
        moved = moved + #group.delays
    end
end
table.insert(answer, 1, moved)
return answer
