-- requires lock_request.lua
-- Take a lock, or one of its slots, and push a message to a list; where the lock is refused, nothing is pushed.
-- KEYS[1…3] as in lock_request.lua   KEYS[4] the lock   KEYS[5] the list   KEYS[6] where the answer is kept, so that the
-- call may be repeated even when the job has run by then
-- ARGV[1…10] the request, as in lock_request.lua   ARGV[11] the message   ARGV[12] milliseconds to keep the answer
-- Returns what lock_answer says.
local given = redis.call("GET", KEYS[6])
if given then return given end

local function can_be_pushed()
    local kind = redis.call("TYPE", KEYS[5]).ok
    if kind ~= "list" and kind ~= "none" then error("the queue " .. KEYS[5] .. " is no list but a " .. kind) end
end

local now, request = tonumber(microseconds()), read_request(1)
local hold, owner = take_lock(KEYS[4], request, now, can_be_pushed)
local answer = lock_answer(request, hold, owner, now)
if owner == request.owner then
    redis.call("LPUSH", KEYS[5], ARGV[11])
    redis.call("SET", KEYS[6], answer, "PX", ARGV[12])
end
return answer
