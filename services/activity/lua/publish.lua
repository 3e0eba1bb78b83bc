-- Publish verdicts: ARGV tenant, decision, reason, and so on. Returns each tenant's decision before.
local told = {}
for i = 1, #ARGV, 3 do
  local verdict = suspension(ARGV[i]) .. ':verdict'
  local before = redis.pcall('HGET', verdict, 'decision')
  -- Whatever is there is not kept, so it may be of any type.
  redis.call('DEL', verdict)
  redis.call('HSET', verdict, 'decision', ARGV[i + 1], 'reason', ARGV[i + 2], 'at', stored(now))
  told[#told + 1] = type(before) == 'string' and before or ''
end
return cjson.encode(told)
