-- requires batch.lua
-- Remove a batch, the due marks of what comes at its end, and its place in the index KEYS[5]. Other marks may be as many
-- as members: whoever looks what is due finds no batch to them, and removes them.
local function remove(batch)
    for _, kind in ipairs({"catch", "then", "next", "finally"}) do
        for position = 0, batch[kind] - 1 do
            redis.call("ZREM", KEYS[4], mark(kind, position))
        end
    end
    redis.call("ZREM", KEYS[5], batch.created .. ":" .. ARGV[1])
    redis.call("UNLINK", KEYS[1], KEYS[2], KEYS[3])
end
