-- What all scripts share. There is one clock, the server's. Keys are named in here and not declared: EVAL takes
-- a declared key for one that is written, and what one side writes the other may only read.

local HOLD_SECONDS, CLAIM_SECONDS, GATEWAY_SECONDS = 30, 30, 60
local CLOCKS_DIFFER_SECONDS = 60

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function stored(seconds)
  return string.format('%.3f', seconds)
end

-- What one tenant's keys hold decides nothing about another: the result of `step`, or nil and what is wrong.
local function alone(step, ...)
  local done, found = pcall(step, ...)
  if done then
    return found
  end
  return nil, type(found) == 'table' and found.err or tostring(found)
end

-- Redis' answer. A refusal names the key, for whoever has to mend it.
local function ask(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    error({err = key .. ': ' .. answer.err})
  end
  return answer
end

local function refuse(text, where)
  error({err = where .. ' is "' .. string.sub(text, 1, 40) .. '", which the platform does not write'})
end

-- Seconds or a time, as the platform writes them. Lua would also read `nan`, `inf` and `0x10`.
local function number(text, where)
  local whole = string.match(text, '^(%d+)%.?%d*$')
  if not whole or #whole > 11 then
    refuse(text, where)
  end
  return tonumber(text)
end

-- What INCR takes.
local function count(text, where)
  if text ~= '0' and not string.match(text, '^[1-9]%d*$') or #text > 11 then
    refuse(text, where)
  end
  return tonumber(text)
end

local function activity(tenant)
  return 'activity:' .. tenant
end

local function suspension(tenant)
  return 'suspension:' .. tenant
end

-- Counts the machine's starts: what was claimed of an earlier run says nothing about this one.
local function generation(tenant)
  local key = activity(tenant) .. ':generation'
  return count(ask('GET', key) or '0', key)
end

-- How long a claim is live yet; 0: there is none.
local function claim_seconds(tenant)
  local key = suspension(tenant)
  return math.max(number(ask('HGET', key, 'until') or '0', key .. ' until') - now, 0)
end

-- The live claim on this run of the machine, or nil.
local function claim(tenant)
  local key, run, seconds = suspension(tenant), generation(tenant), claim_seconds(tenant)
  if seconds == 0 then
    return nil
  end
  local fields = ask('HMGET', key, 'generation', 'state')
  if count(fields[1] or '', key .. ' generation') ~= run then
    return nil
  end
  if fields[2] ~= 'claimed' and fields[2] ~= 'sent' then
    refuse(fields[2] or '', key .. ' state')
  end
  return {state = fields[2], seconds = seconds}
end

local function standing(tenant)
  return {generation = generation(tenant), claim = claim(tenant)}
end
