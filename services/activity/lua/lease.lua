-- Take or renew a lease: ARGV tenant, name, seconds, cap in seconds, how many at most.
-- One that was let lapse starts anew; one that has run into its cap stays refused until it is released or the
-- machine starts anew, so that an agent that forgets one cannot keep its machine awake for ever.
local tenant, name = ARGV[1], ARGV[2]
local seconds, cap, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local leases, taken = activity(tenant) .. ':leases', activity(tenant) .. ':leases:taken'
if claim(tenant) then
  return cjson.encode({refused = 'suspending'})
end

local function taken_at(lease)
  return number(ask('HGET', taken, lease) or stored(now), taken .. ' ' .. lease)
end

for _, lapsed in ipairs(ask('ZRANGEBYSCORE', leases, '-inf', stored(now))) do
  if tonumber(ask('ZSCORE', leases, lapsed)) < taken_at(lapsed) + cap - 0.01 then
    ask('ZREM', leases, lapsed)
    ask('HDEL', taken, lapsed)
  end
end
local since = taken_at(name)
if since + cap <= now then
  return cjson.encode({refused = 'cap'})
end
if not ask('ZSCORE', leases, name) and ask('ZCARD', leases) >= most then
  return cjson.encode({refused = 'many'})
end
local expiry = math.min(now + seconds, since + cap)
ask('ZADD', leases, stored(expiry), name)
ask('HSET', taken, name, stored(since))
return cjson.encode({['until'] = expiry})
