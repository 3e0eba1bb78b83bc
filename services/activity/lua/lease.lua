-- Take or renew a lease: ARGV tenant, name, seconds, cap in seconds, how many at most.
-- One that was let lapse starts anew; one that has run into its cap stays refused until it is released or the
-- machine starts anew, so that an agent that forgets one cannot keep its machine awake for ever.
local tenant, name = ARGV[1], ARGV[2]
local seconds, cap, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local leases, taken = activity(tenant) .. ':leases', activity(tenant) .. ':leases:taken'
if claim(tenant) then
  return cjson.encode({refused = 'suspending'})
end
for _, lapsed in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', stored(now))) do
  local limit = tonumber(redis.call('HGET', taken, lapsed) or now) + cap
  if tonumber(redis.call('ZSCORE', leases, lapsed)) < limit - 0.01 then
    redis.call('ZREM', leases, lapsed)
    redis.call('HDEL', taken, lapsed)
  end
end
local since = tonumber(redis.call('HGET', taken, name) or now)
if since + cap <= now then
  return cjson.encode({refused = 'cap'})
end
if not redis.call('ZSCORE', leases, name) and redis.call('ZCARD', leases) >= most then
  return cjson.encode({refused = 'many'})
end
local expiry = math.min(now + seconds, since + cap)
redis.call('ZADD', leases, stored(expiry), name)
redis.call('HSET', taken, name, stored(since))
return cjson.encode({['until'] = expiry})
