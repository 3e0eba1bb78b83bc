-- What all scripts share. There is one clock, the server's. Keys are named in here and not declared: EVAL takes
-- a declared key for one that is written, and what one side writes the other may only read.

local HOLD_SECONDS, CLAIM_SECONDS, GATEWAY_SECONDS = 30, 30, 60
local CLOCKS_DIFFER_SECONDS = 60

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function stored(seconds)
  return string.format('%.3f', seconds)
end

local function activity(tenant)
  return 'activity:' .. tenant
end

local function suspension(tenant)
  return 'suspension:' .. tenant
end

-- Counts the machine's starts: what was claimed of an earlier run says nothing about this one.
local function generation(tenant)
  local starts = redis.call('GET', activity(tenant) .. ':generation') or '0'
  return tonumber(starts) or error(activity(tenant) .. ':generation is "' .. starts .. '", which is no number')
end

-- How long a claim is live yet; 0: there is none.
local function claim_seconds(tenant)
  return math.max(tonumber(redis.call('HGET', suspension(tenant), 'until') or '0') - now, 0)
end

-- The live claim on this run of the machine, or nil.
local function claim(tenant)
  local fields = redis.call('HMGET', suspension(tenant), 'generation', 'state')
  local seconds = claim_seconds(tenant)
  if seconds == 0 or tonumber(fields[1]) ~= generation(tenant) then
    return nil
  end
  return {state = fields[2], seconds = seconds}
end

local function standing(tenant)
  return {generation = generation(tenant), claim = claim(tenant)}
end
