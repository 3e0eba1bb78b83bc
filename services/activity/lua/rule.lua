-- When a machine is idle. There is this one rule: it judges all machines, and again whichever is claimed.

-- Why nothing in here can be relied upon, or nil.
local function doubt()
  local gateway = redis.call('HMGET', 'activity::gateway', 'since', 'until')
  if not gateway[2] or tonumber(gateway[2]) <= now then
    return {kind = 'no gateway'}
  end
  if now - tonumber(gateway[1]) < HOLD_SECONDS then
    return {kind = 'new gateway', seconds = now - tonumber(gateway[1])}
  end
  -- What was written in its last second may be lost; whoever still holds a machine says so again within ten.
  local uptime = tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)'))
  if uptime < HOLD_SECONDS then
    return {kind = 'new server', seconds = uptime}
  end
end

local function last_sign(tenant, since)
  local last, signal = since, 'started'
  local fields = redis.call('HGETALL', activity(tenant))
  for i = 1, #fields, 2 do
    local at = tonumber(fields[i + 1])
    if not at or at ~= at then
      error(activity(tenant) .. ' has "' .. fields[i] .. '" at "' .. fields[i + 1] .. '", which is no time')
    end
    if at > last then
      last, signal = at, fields[i]
    end
  end
  return last, signal
end

local function unsafe_judge(tenant, limit, since)
  if claim_seconds(tenant) > 0 then
    return {kind = 'claimed'}
  end
  local key, live = activity(tenant), '(' .. stored(now)
  local hold = redis.call('ZREVRANGEBYSCORE', key .. ':holds', '+inf', live, 'LIMIT', 0, 1)
  if hold[1] then
    return {kind = 'hold', who = hold[1]}
  end
  local lease = redis.call('ZREVRANGEBYSCORE', key .. ':leases', '+inf', live, 'WITHSCORES', 'LIMIT', 0, 1)
  if lease[1] then
    return {kind = 'lease', who = lease[1], at = tonumber(lease[2])}
  end
  local last, signal = last_sign(tenant, since)
  if last > now + CLOCKS_DIFFER_SECONDS then
    return {kind = 'future', who = signal, seconds = last - now}
  end
  if now - last < limit then
    return {kind = 'recent', who = signal, seconds = math.max(now - last, 0)}
  end
  return {kind = 'idle', seconds = now - last, generation = generation(tenant)}
end

local function judge(tenant, limit, since)
  local parsed, found = pcall(unsafe_judge, tenant, tonumber(limit), tonumber(since))
  if parsed then
    return found
  end
  return {kind = 'unreadable', who = type(found) == 'table' and found.err or tostring(found)}
end
