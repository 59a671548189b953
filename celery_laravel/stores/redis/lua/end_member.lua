-- requires batch_member.lua
-- Bring a pending member to its end.
-- KEYS and ARGV[1…3] as in batch.lua, ARGV[4…7] as in batch_member.lua   ARGV[8…] what it skips, as ranges FIRST, LAST
return end_member(8)
