-- A gateway tells that it reports. Since when some gateway has without a break is what counts: after a break,
-- or a jump of the clock, what is in here may be older than it looks.
if not redis.call('SET', 'activity::gateway', stored(now), 'NX', 'EX', 60) then
  redis.call('EXPIRE', 'activity::gateway', 60)
end
