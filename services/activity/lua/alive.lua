-- A gateway tells that it reports. Since when some gateway has without a break is what counts: after a break, or
-- a jump of the clock, what is in here may be older than it looks.
local reported = tonumber(redis.call('HGET', 'activity::gateway', 'until') or '0')
if reported <= now or reported > now + GATEWAY_SECONDS then
  redis.call('HSET', 'activity::gateway', 'since', stored(now))
end
redis.call('HSET', 'activity::gateway', 'until', stored(now + GATEWAY_SECONDS))
