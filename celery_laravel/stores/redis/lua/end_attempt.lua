-- requires attempt.lua
-- End a turn.
-- KEYS[1] the job's entry
-- ARGV[1] turn   ARGV[2] 1 for a final end   ARGV[3] attempts and ARGV[4] exceptions behind the next turn
-- ARGV[5] delay and ARGV[6] keeping time in milliseconds
-- Returns 1 when this call ended it, 0 otherwise.
return end_attempt(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]) and 1 or 0
