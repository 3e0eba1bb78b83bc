-- Keep what the last wake took: ARGV tenant, names and seconds of its phases.
redis.call('HSET', activity(ARGV[1]) .. ':wake', 'at', stored(now), unpack(ARGV, 2))
