-- A page of all holds, the oldest first.
-- KEYS[1] as in lock.lua   ARGV[1] the least score   ARGV[2] how many to pass over   ARGV[3] at most so many
-- Returns a list of place, score, place…
return redis.call("ZRANGEBYSCORE", KEYS[1], ARGV[1], "+inf", "WITHSCORES", "LIMIT", ARGV[2], ARGV[3])
