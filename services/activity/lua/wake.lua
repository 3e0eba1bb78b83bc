-- Keep what the last wake took, and nothing of an earlier one: ARGV tenant, names and seconds of its phases.
local key = activity(ARGV[1]) .. ':wake'
redis.call('DEL', key)
redis.call('HSET', key, 'at', stored(now), unpack(ARGV, 2))
