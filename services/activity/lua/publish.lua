-- Publish verdicts and count the time awake: ARGV month, then per tenant: tenant, decision, reason, since when it
-- runs. The time is counted from where it was last counted to, so that overlapping sweeps count it once.
local before = {}
for i = 2, #ARGV, 4 do
  local verdict, usage = suspension(ARGV[i]) .. ':verdict', suspension(ARGV[i]) .. ':usage'
  before[#before + 1] = redis.call('HGET', verdict, 'decision') or ''
  redis.call('HSET', verdict, 'decision', ARGV[i + 1], 'reason', ARGV[i + 2], 'at', stored(now))
  local from = math.max(tonumber(ARGV[i + 3]), tonumber(redis.call('HGET', usage, 'until') or '0'))
  if from < now then
    redis.call('HINCRBYFLOAT', usage, ARGV[1], stored(now - from))
    redis.call('HSET', usage, 'until', stored(now))
  end
end
return cjson.encode(before)
