-- Note that something was seen of the tenant just now: ARGV tenant, signals.
for i = 2, #ARGV do
  redis.call('HSET', activity(ARGV[1]), ARGV[i], stored(now))
end
