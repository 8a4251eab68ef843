-- Takes requests out of the buckets and holds them. For a recognition whose caller named it, the
-- hold also marks the request as running.
local id, amount, ttl_ms, actor = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local validate_only, request, fingerprint = ARGV[5] == '1', ARGV[6], ARGV[7]

-- A stored answer as it is kept: fingerprint, time, what was spent, the answer itself.
local function find_answer()
  for _, key in ipairs(ANSWERS) do
    local text = read('HGET', key, request)
    if text then
      local known, at_ms, free, plan, extra, start =
        string.match(text, '^(%x+)|(%d+)|(%d+)|(%d+)|(%d+)|()')
      if not known then
        corrupt('a stored answer is unreadable')
      end
      if tonumber(at_ms) + ANSWER_TTL_MS > NOW_MS then
        return known, {tonumber(free), tonumber(plan), tonumber(extra)}, string.sub(text, start)
      end
    end
  end
end

-- Which reservation is running for this request, and for which fingerprint.
local function find_running()
  local text = read('HGET', HOLDS, REQUEST .. request)
  if not text then
    return nil
  end
  local known, reservation = string.match(text, '^(%x+)|(.+)$')
  if not known then
    corrupt('a running request is unreadable')
  end
  if settled_now[reservation] then
    return nil
  end
  return known, read_hold(reservation) or corrupt('the hold of a running request is missing')
end

-- How long until a reset that makes this amount available; -1 if none will.
local function reset_helps_ms()
  local plan = PLANS[main.plan] or available('plan')
  if get('plan_cancelled') == 1 then
    plan = 0
  end
  local free = FREE_MONTHLY and FREE_ALLOWANCE or available('free')
  if free + plan + available('extra') < amount then
    return -1
  end
  return main.next_reset_ts * 1000 - NOW_MS
end

touch()

if request ~= '' then
  local answered, spent, answer = find_answer()
  if answered and answered ~= fingerprint then
    return unchanged('ALREADY_EXISTS')
  elseif answered then
    return unchanged('ANSWERED', spent, answer)
  end
  local running, hold = find_running()
  if running and running ~= fingerprint then
    return unchanged('ALREADY_EXISTS')
  elseif running and hold.id ~= id then
    return unchanged('IN_PROGRESS', hold.expires_ms - NOW_MS)
  end
end

local settled = find_settled(id)
if settled then
  return unchanged(settled.held == amount and settled.state or 'ALREADY_EXISTS')
end
local known = read_hold(id)
if known then
  if hold_total(known) ~= amount or known.ttl_ms ~= ttl_ms then
    return unchanged('ALREADY_EXISTS')
  end
  return unchanged('REPLAYED', hold_reply(known))
end
if available_total() < amount then
  return unchanged('EXHAUSTED', available_total(), reset_helps_ms())
end
if holds_open() >= HOLDS_OPEN_MAX then
  return unchanged('TOO_MANY_HOLDS')
end
-- Those that are open will be settled, and remembered, too.
if holds_open() + settled_count() >= SETTLED_MAX then
  return unchanged('TOO_MANY_RESERVATIONS')
end

local hold = {
  id = id, ttl_ms = ttl_ms, created_ms = NOW_MS, expires_ms = NOW_MS + ttl_ms,
  free_resets = get('free_resets'), plan_resets = get('plan_resets'),
  actor = actor, request = request,
}
local rest = amount
for _, bucket in ipairs(SPEND_ORDER) do
  hold[bucket] = math.min(rest, available(bucket))
  rest = rest - hold[bucket]
end
if validate_only then
  return unchanged('OK', hold_reply(hold))
end
for _, bucket in ipairs(BUCKETS) do
  put(bucket, -hold[bucket])
  add('held_' .. bucket, hold[bucket])
end
write_hold(hold)
if request ~= '' then
  write('HSET', HOLDS, REQUEST .. request, fingerprint .. '|' .. id)
end
return done('OK', hold_reply(hold))
