-- requires attempt_start.lua
-- Start the next attempt of a job, or say why not.
-- KEYS[1] the job's entry   ARGV[1…7] as in attempt_start.lua
-- Returns an answer as in attempt_start.lua.
return start_attempt(KEYS[1])
