-- Keep the summary of a sweep: ARGV names and figures.
redis.call('DEL', 'suspension::sweep')
redis.call('HSET', 'suspension::sweep', unpack(ARGV))
