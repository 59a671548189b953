-- requires attempt.lua
-- Start the next attempt of a job, or say why not.
-- ARGV[1] turn   ARGV[2] attempts and ARGV[3] exceptions behind it   ARGV[4] owner   ARGV[5] lease and ARGV[6] keeping
-- time in milliseconds   ARGV[7] a token of this call, so that the call may be repeated when its answer was lost
-- What these functions return is the text STATUS ATTEMPT EXCEPTIONS DELAY HOLDER, the delay in milliseconds.

-- Why an attempt does not start, as the entry stands; nil when it may.
local function refusal(entry, now)
    local turn = tonumber(ARGV[1])
    if not entry or entry.turn < turn then return nil end
    if entry.turn > turn or entry.state == "over" then return "over 0 0 0 " end
    if entry.state == "released" then
        return string.format("released %.0f %s %.0f ", entry.attempts, entry.exceptions, math.max(0, entry.till - now))
    end
    if entry.token == ARGV[7] then return string.format("started %.0f %s 0 ", entry.attempts, entry.exceptions) end
    if entry.till > now and entry.owner ~= ARGV[4] then return string.format("running 0 0 %.0f ", entry.till - now) end
    return nil
end

-- `lock`, if given, is called when nothing else is in the way, and returns the answer when the lock is.
local function start_attempt(key, lock)
    local turn, behind = tonumber(ARGV[1]), tonumber(ARGV[2])
    local lease, keep = tonumber(ARGV[5]), tonumber(ARGV[6])
    local entry, now = read_attempt(key), milliseconds()
    local answer = refusal(entry, now) or (lock and lock())
    if answer then return answer end
    if entry and entry.turn == turn then behind = math.max(behind, entry.attempts) end
    write_attempt(key, {
        turn = turn, attempts = behind + 1, exceptions = ARGV[3], state = "open",
        till = now + lease, keep = keep, token = ARGV[7], owner = ARGV[4],
    }, math.max(lease, keep))
    return string.format("started %.0f %s 0 ", behind + 1, ARGV[3])
end
