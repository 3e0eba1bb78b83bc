-- Publish verdicts and count the time awake: ARGV month, then per tenant: tenant, decision, reason, since when it
-- runs. The time is counted from where it was last counted to, so that overlapping sweeps count it once.
local function add_time(tenant, month, since)
  local usage = suspension(tenant) .. ':usage'
  local from = math.max(tonumber(since), number(ask('HGET', usage, 'until') or '0', usage .. ' until'))
  if from < now then
    ask('HINCRBYFLOAT', usage, month, stored(now - from))
    ask('HSET', usage, 'until', stored(now))
  end
end

local told = {}
for i = 2, #ARGV, 4 do
  local verdict = suspension(ARGV[i]) .. ':verdict'
  local before = redis.pcall('HGET', verdict, 'decision')
  -- Whatever is there is not kept, so it may be of any type.
  redis.call('DEL', verdict)
  redis.call('HSET', verdict, 'decision', ARGV[i + 1], 'reason', ARGV[i + 2], 'at', stored(now))
  local _, odd = alone(add_time, ARGV[i], ARGV[1], ARGV[i + 3])
  told[#told + 1] = {before = type(before) == 'string' and before or '', uncounted = odd or ''}
end
return cjson.encode(told)
