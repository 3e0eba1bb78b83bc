-- A gateway tells that it reports. Since when some gateway has without a break is what counts: after a break, a
-- jump of the clock, or what makes no sense, what is in here may be older than it looks.
local key = 'activity::gateway'
local reported = alone(function()
  return number(ask('HGET', key, 'until') or '0', key)
end)
if not reported or reported <= now or reported > now + GATEWAY_SECONDS then
  redis.call('DEL', key)
  redis.call('HSET', key, 'since', stored(now))
end
redis.call('HSET', key, 'until', stored(now + GATEWAY_SECONDS))
