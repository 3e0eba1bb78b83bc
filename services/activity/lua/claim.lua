-- Judge one machine, and claim it if it is idle: ARGV tenant, limit, since when it runs, who claims.
local found = doubt() or judge(ARGV[1], ARGV[2], ARGV[3])
if found.kind == 'idle' then
  local key = suspension(ARGV[1])
  redis.call('HSET', key, 'generation', found.generation, 'state', 'claimed', 'by', ARGV[4], 'at', stored(now))
  redis.call('PEXPIRE', key, 1000 * CLAIM_SECONDS)
end
return cjson.encode(found)
