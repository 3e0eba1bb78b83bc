-- When a machine is idle. There is this one rule: it judges all machines, and again whichever is claimed.

local function unreadable(odd)
  return {kind = 'unreadable', who = odd}
end

local function unsafe_doubt()
  local key = 'activity::gateway'
  local gateway = ask('HMGET', key, 'since', 'until')
  if number(gateway[2] or '0', key .. ' until') <= now then
    return {kind = 'no gateway'}
  end
  local reported = now - number(gateway[1] or '', key .. ' since')
  if reported < HOLD_SECONDS then
    return {kind = 'new gateway', seconds = reported}
  end
  -- What was written in its last second may be lost; whoever still holds a machine says so again within ten.
  local uptime = tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)'))
  if uptime < HOLD_SECONDS then
    return {kind = 'new server', seconds = uptime}
  end
end

-- Why nothing in here can be relied upon, or nil.
local function doubt()
  local found, odd = alone(unsafe_doubt)
  return found or odd and unreadable(odd)
end

local function last_sign(tenant, since)
  local last, signal = since, 'started'
  local fields = ask('HGETALL', activity(tenant))
  for i = 1, #fields, 2 do
    local at = number(fields[i + 1], activity(tenant) .. ' ' .. fields[i])
    if at > last then
      last, signal = at, fields[i]
    end
  end
  return last, signal
end

-- Who keeps the machine awake for longest, and until when, by a sorted set of such times.
local function live(key)
  local found = ask('ZREVRANGEBYSCORE', key, '+inf', '(' .. stored(now), 'WITHSCORES', 'LIMIT', 0, 1)
  if found[1] then
    return found[1], number(found[2], key .. ' ' .. found[1])
  end
end

local function unsafe_judge(tenant, limit, since)
  if claim_seconds(tenant) > 0 then
    return {kind = 'claimed'}
  end
  local holder = live(activity(tenant) .. ':holds')
  if holder then
    return {kind = 'hold', who = holder}
  end
  local lease, ends = live(activity(tenant) .. ':leases')
  if lease then
    return {kind = 'lease', who = lease, at = ends}
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
  local found, odd = alone(unsafe_judge, tenant, tonumber(limit), tonumber(since))
  found = found or unreadable(odd)
  found.who = found.who and string.sub(found.who, 1, 200)
  return found
end
