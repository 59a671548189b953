-- What owners hold.
-- KEYS what each of them holds, by when it ends
-- Returns for each a list of names.
local answer = {}
for number, key in ipairs(KEYS) do answer[number] = redis.call("ZRANGE", key, 0, -1) end
return answer
