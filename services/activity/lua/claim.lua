-- Judge one machine, and claim it if it is idle: ARGV tenant, limit, since when it runs, who claims.
local found = doubt() or judge(ARGV[1], ARGV[2], ARGV[3])
if found.kind == 'idle' then
  local key = suspension(ARGV[1])
  local lapses = stored(now + CLAIM_SECONDS)
  redis.call('HSET', key, 'generation', found.generation, 'state', 'claimed', 'by', ARGV[4], 'until', lapses)
  redis.call('EXPIRE', key, 2 * CLAIM_SECONDS)
end
return cjson.encode(found)
