-- Begin a new run, if nobody else has since the caller looked, and no stop of the present one can still arrive.
local tenant, seen = ARGV[1], tonumber(ARGV[2])
local live = claim(tenant)
if generation(tenant) ~= seen or (live and live.state ~= 'sent') then
  return 0
end
redis.call('INCR', activity(tenant) .. ':generation')
-- Whoever held these is gone with the machine's last run.
redis.call('DEL', activity(tenant) .. ':leases', activity(tenant) .. ':leases:taken')
return 1
