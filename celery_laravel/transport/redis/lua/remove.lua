-- Remove a message that is held: it is done. A script, since a transaction is refused by a server whose memory is full.
-- KEYS[1] the held messages   KEYS[2] when their holders were last heard of   ARGV[1] its tag
-- Returns 1 when it was removed, 0 when it is not held any more.
redis.call("ZREM", KEYS[2], ARGV[1])
return redis.call("HDEL", KEYS[1], ARGV[1])
