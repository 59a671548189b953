-- requires time.lua
-- The server's clock.
-- KEYS[1] any key: on a cluster, of the node that is asked
-- Returns microseconds since the epoch as text.
return microseconds()
