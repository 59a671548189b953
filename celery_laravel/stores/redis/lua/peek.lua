-- requires attempt_start.lua
-- Whether an attempt could start; nothing is changed.
-- KEYS[1] the job's entry   ARGV[1…7] as in attempt_start.lua
-- Returns an answer as in attempt_start.lua, or nil when nothing is in the way.
return refusal(read_attempt(KEYS[1]), milliseconds())
