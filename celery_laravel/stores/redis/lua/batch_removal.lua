-- requires batch.lua
-- Remove a batch, its due marks, and its place in the index KEYS[5].
local function remove(batch)
    for kind, rank in pairs(RANK) do
        for position = 0, batch[kind] - 1 do
            redis.call("ZREM", KEYS[4], string.format("%d:%s:%06d:%s", rank, kind, position, ARGV[1]))
        end
    end
    redis.call("ZREM", KEYS[5], batch.created .. ":" .. ARGV[1])
    redis.call("UNLINK", KEYS[1], KEYS[2], KEYS[3])
end
