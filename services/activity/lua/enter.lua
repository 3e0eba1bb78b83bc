-- Per pair of tenant and holder: hold the machine, and tell where it stands. A hold comes before anything else
-- that is done for a request, and no claim is made against a live one.
local found = {}
for i = 1, #ARGV, 2 do
  local tenant, holder = ARGV[i], ARGV[i + 1]
  local holds = activity(tenant) .. ':holds'
  redis.call('ZADD', holds, stored(now + HOLD_SECONDS), holder)
  redis.call('EXPIRE', holds, 2 * HOLD_SECONDS)
  redis.call('HSET', activity(tenant), 'seen', stored(now))
  found[#found + 1] = standing(tenant)
end
return cjson.encode(found)
