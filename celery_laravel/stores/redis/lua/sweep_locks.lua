-- requires lock.lua
-- Forget some of the holds that have ended by themselves, which stand in the indices until then.
-- KEYS[1] and KEYS[2] as in lock.lua
-- Returns how many.
return sweep(tonumber(microseconds()))
