-- Per pair of tenant and holder: hold the machine, and tell where it stands. A hold comes before anything else
-- that is done for a request, and no claim is made against a live one.
local function enter(tenant, holder)
  local holds = activity(tenant) .. ':holds'
  ask('ZADD', holds, stored(now + HOLD_SECONDS), holder)
  ask('EXPIRE', holds, 2 * HOLD_SECONDS)
  ask('HSET', activity(tenant), 'seen', stored(now))
  return standing(tenant)
end

local found = {}
for i = 1, #ARGV, 2 do
  local entered, odd = alone(enter, ARGV[i], ARGV[i + 1])
  found[#found + 1] = entered or {unreadable = odd}
end
return cjson.encode(found)
