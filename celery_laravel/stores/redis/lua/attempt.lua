-- requires time.lua
-- What the scripts of attempts share.
-- An entry is one text: TURN ATTEMPTS EXCEPTIONS STATE UNTIL KEEP TOKEN OWNER, where STATE is open, released or over,
-- UNTIL the end of the lease or the instant the next turn is due, KEEP the keeping time (both milliseconds), and TOKEN
-- the call that opened it. Released and over entries have no owner.

local function read_attempt(key)
    local text = redis.call("GET", key)
    if not text then return nil end
    local turn, attempts, exceptions, state, till, keep, token, owner =
        string.match(text, "^(%d+) (%d+) (%d+) (%a+) (%d+) (%d+) (%S+) (.*)$")
    return {
        turn = tonumber(turn), attempts = tonumber(attempts), exceptions = exceptions, state = state,
        till = tonumber(till), keep = tonumber(keep), token = token, owner = owner,
    }
end

local function write_attempt(key, entry, ttl)
    local text = string.format(
        "%.0f %.0f %s %s %.0f %.0f %s %s",
        entry.turn, entry.attempts, entry.exceptions, entry.state, entry.till, entry.keep, entry.token, entry.owner)
    redis.call("SET", key, text, "PX", string.format("%.0f", math.max(1, ttl)))
end

-- End a turn; true when this call ended it. All arguments as they come in ARGV.
local function end_attempt(key, turn, final, attempts, exceptions, delay, keep)
    turn, delay, keep = tonumber(turn), tonumber(delay), tonumber(keep)
    local entry = read_attempt(key)
    if entry and (entry.turn > turn or (entry.turn == turn and entry.state ~= "open")) then return false end
    local state = "released"
    if final == "1" then state, delay = "over", 0 end
    local till = milliseconds() + delay
    write_attempt(key, {
        turn = turn, attempts = attempts, exceptions = exceptions, state = state,
        till = till, keep = keep, token = "-", owner = "",
    }, delay + keep)
    return true
end
