-- requires batch_member.lua
-- requires attempt.lua
-- Bring a pending member to its end, and end its job's turn.
-- KEYS[1…4] and ARGV[1…3] as in batch.lua, ARGV[4…7] as in batch_member.lua   KEYS[5] the job's entry
-- ARGV[8] turn   ARGV[9] 1 for a final end   ARGV[10] attempts and ARGV[11] exceptions behind the next turn
-- ARGV[12] delay and ARGV[13] keeping time in milliseconds   ARGV[14…] what the member skips, as ranges FIRST, LAST
local change = end_member(14)
end_attempt(KEYS[5], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13])
return change
