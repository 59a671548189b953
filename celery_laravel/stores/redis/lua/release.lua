-- requires lock_release.lua
-- Free the holds of an owner.
-- KEYS[1…3] as in lock_release.lua   KEYS[4] where the answer is kept, so that the call may be repeated
-- KEYS[5…] the locks   ARGV[1] owner   ARGV[2] milliseconds to keep the answer, 0 when nobody wants it   ARGV[3…] names
-- Returns for each lock 0 when it was not held, 1 when it was, or the payload left there.
local given = ARGV[2] ~= "0" and redis.call("GET", KEYS[4])
if given then return cmsgpack.unpack(given) end
local now, answer, some = tonumber(microseconds()), {}, false
for number = 5, #KEYS do
    local hold = release_lock(KEYS[number], ARGV[number - 2], ARGV[1], now)
    answer[number - 4] = hold and (hold.payload or 1) or 0
    some = some or hold ~= nil
end
if some and ARGV[2] ~= "0" then redis.call("SET", KEYS[4], cmsgpack.pack(answer), "PX", ARGV[2]) end
return answer
