-- Say of one's own claim that the stop is sent, or withdraw it: ARGV tenant, who claimed, 'sent' or 'withdrawn'.
local key = suspension(ARGV[1])
if redis.pcall('HGET', key, 'by') ~= ARGV[2] then
  return 0
end
if ARGV[3] == 'sent' then
  redis.call('HSET', key, 'state', 'sent')
else
  redis.call('DEL', key)
end
return 1
