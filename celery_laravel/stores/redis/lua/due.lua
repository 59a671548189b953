-- requires time.lua
-- The marks of callbacks that have been due for so long, longest first.
-- KEYS[1] the due marks of a shard   ARGV[1] microseconds   ARGV[2] at most so many
-- Returns a list of mark, instant it became due, mark, instant…
local latest = string.format("%.0f", tonumber(microseconds()) - ARGV[1])
return redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", latest, "WITHSCORES", "LIMIT", 0, ARGV[2])
