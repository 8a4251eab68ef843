-- What all scripts of the account share. It stands after the settings and the clock, and before
-- the script itself.
--
-- A script that fails half-way keeps the writes it made. So a step works on the account in
-- memory: `touch` reads and checks everything, the step changes what it has read, and `save`,
-- called last, writes what has changed.

-- Older ones do not know all of the commands below, and would fail half-way.
if not redis.REDIS_VERSION_NUM then -- which came with 7.0
  return redis.error_reply('TOO_OLD img2text needs Redis 7.0 or later, or Valkey')
end

local MAIN, ACCOUNT, HOLDS, EXPIRIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local SETTLED, HISTORY, MONTHS, PAYMENTS = {KEYS[5], KEYS[6]}, KEYS[7], KEYS[8], KEYS[9]
local ANSWERS = {KEYS[10], KEYS[11]}

local BUCKETS = {'free', 'plan', 'extra'}
local COUNTERS = {'granted', 'spent', 'lapsed'}
local DAY_S = 86400
-- At most 15 digits, so that every number is exact.
local DIGITS_MAX = 15
-- The year 2286: nobody means a later time, but it is what milliseconds look like as seconds.
local SECONDS_MAX = 9999999999
-- So many entries of the history are folded at once, to spread the cost.
local FOLD_ENTRIES = 64
-- What the field of a request in HOLDS starts with; no reservation id contains a slash.
local REQUEST = 'request/'

local NOW_MS = clock_ms()
local NOW_S = math.floor(NOW_MS / 1000)

-- Ends the script before anything was written.
local function fail(code, detail)
  error({err = code .. ' ' .. detail})
end

local function corrupt(what)
  fail('ACCOUNT_CORRUPT', what)
end

-- A read whose key may be of another type than ours.
local function read(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, '^WRONGTYPE') then
      corrupt('a key is not of the type it should be')
    end
    error(reply)
  end
  return reply
end

-- Lua would write numbers of more than 14 digits as 1.0e+14.
local function digits(number)
  return string.format('%.0f', number)
end

local function is_integer(text)
  return string.find(text, '^%-?%d+$') and #text <= DIGITS_MAX
end

local function integer(text, what)
  if not text then
    return 0
  end
  if not is_integer(text) then
    corrupt(what .. ' is not a number')
  end
  return tonumber(text)
end

----------------------------------------------------------------------------------------------
-- The calendar: months, UTC, in the Gregorian calendar.

-- The year and month (1 to 12) of an instant. Years are counted from March, so that a leap day is
-- the last day of its year; 400 of them are always 146,097 days.
local function year_month(seconds)
  local floor = math.floor
  local day = floor(seconds / DAY_S) + 719468
  local era = floor(day / 146097)
  local day_of_era = day - era * 146097
  local leap_days = floor(day_of_era / 1460) - floor(day_of_era / 36524) + floor(day_of_era / 146096)
  local year_of_era = floor((day_of_era - leap_days) / 365)
  local day_of_year = day_of_era
    - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local month = floor((5 * day_of_year + 2) / 153) + 3
  local year = era * 400 + year_of_era
  if month > 12 then
    return year + 1, month - 12
  end
  return year, month
end

-- The first second of a month.
local function month_start(year, month)
  local floor = math.floor
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  local era = floor(year / 400)
  local year_of_era = year - era * 400
  local day_of_year = floor((153 * (month - 3) + 2) / 5)
  local day_of_era = year_of_era * 365 + floor(year_of_era / 4) - floor(year_of_era / 100) + day_of_year
  return (era * 146097 + day_of_era - 719468) * DAY_S
end

-- The first second of the month after that of an instant.
local function next_month(seconds)
  local year, month = year_month(seconds)
  if month == 12 then
    return month_start(year + 1, 1)
  end
  return month_start(year, month + 1)
end

----------------------------------------------------------------------------------------------
-- The account in memory.

-- The old system's hash: plan, plan_remaining, extra_remaining, free_used, next_reset_ts.
local main, main_changed = {}, {}
-- Our own fields: counters, holds by bucket, what the main hash showed when we last wrote it.
local stored, changed = {}, {}
-- Whether there was anything of this user before this step.
local existed
-- Commands that `save` will run, and entries that it will add to the history.
local writes, entries = {}, {}
-- Reservations that this step settles, by id, and how many they are.
local settled_now, settled_now_count = {}, 0
-- How many holds this step found expired, and how many of these it has settled for good.
local expired_count, expired_saved_count = 0, 0

local function get(field)
  return changed[field] or stored[field] or 0
end

local function add(field, number)
  if number ~= 0 then
    changed[field] = get(field) + number
  end
end

local function set_main(field, value)
  main[field], main_changed[field] = value, true
end

local function write(...)
  writes[#writes + 1] = {...}
end

local function available(bucket)
  if bucket == 'free' then
    return math.max(0, FREE_ALLOWANCE - main.free_used)
  end
  return math.max(0, main[bucket .. '_remaining'])
end

-- Moves requests into a bucket, or out of it if the number is negative.
local function put(bucket, number)
  if number == 0 then
    return
  end
  if bucket == 'free' then
    set_main('free_used', main.free_used - number)
  else
    set_main(bucket .. '_remaining', available(bucket) + number)
  end
end

local function available_total()
  return available('free') + available('plan') + available('extra')
end

-- Remembers what there is after a gain: the measure for the near-limit flag.
local function allot()
  changed.allotted = available_total() + get('held_free') + get('held_plan') + get('held_extra')
end

-- Adds an entry to the history and moves the counters by what it says. `movement` may name
-- granted, spent and lapsed, each by bucket, and an id, an actor and a detail.
local function record(kind, at_ms, movement)
  local numbers = {}
  for _, counter in ipairs(COUNTERS) do
    for _, bucket in ipairs(BUCKETS) do
      local number = movement[counter] and movement[counter][bucket] or 0
      add(counter .. '_' .. bucket, number)
      numbers[#numbers + 1] = number == 0 and '' or digits(number)
    end
  end
  entries[#entries + 1] = table.concat({
    kind, digits(at_ms), movement.id or '', movement.actor or 'img2text',
    table.concat(numbers, ','), movement.detail or '',
  }, '|')
end

----------------------------------------------------------------------------------------------
-- Holds.

-- A hold as it is kept: what came from which bucket, when it is over, how often the buckets had
-- been refreshed when it was taken, the ttl asked for, when and by whom it was made, for which
-- request.
local function write_hold(hold)
  write('HSET', HOLDS, hold.id, table.concat({
    digits(hold.free), digits(hold.plan), digits(hold.extra), digits(hold.expires_ms),
    digits(hold.free_resets), digits(hold.plan_resets), digits(hold.ttl_ms),
    digits(hold.created_ms), hold.actor, hold.request,
  }, '|'))
  write('ZADD', EXPIRIES, digits(hold.expires_ms), hold.id)
end

local function read_hold(id)
  local text = read('HGET', HOLDS, id)
  if not text then
    return nil
  end
  local hold = {id = id}
  local number = '(%d+)|'
  hold.free, hold.plan, hold.extra, hold.expires_ms, hold.free_resets, hold.plan_resets,
    hold.ttl_ms, hold.created_ms, hold.actor, hold.request =
    string.match(text, '^' .. string.rep(number, 8) .. '([^|]*)|([^|]*)$')
  if not hold.free then
    corrupt('a hold is unreadable')
  end
  for _, field in ipairs({'free', 'plan', 'extra', 'expires_ms', 'free_resets', 'plan_resets',
    'ttl_ms', 'created_ms'}) do
    hold[field] = tonumber(hold[field])
  end
  return hold
end

local function hold_total(hold)
  return hold.free + hold.plan + hold.extra
end

local function hold_reply(hold)
  return {hold.id, hold.free, hold.plan, hold.extra, hold.created_ms, hold.expires_ms,
    hold.actor, hold.request}
end

local function holds_open()
  return read('ZCARD', EXPIRIES) - settled_now_count
end

-- A hold settles against the period it was taken in: what the bucket was refreshed without
-- since then lapses instead of overfilling the new month. Answers how many lapsed.
local function give_back(hold, bucket, number)
  local before = available(bucket)
  if hold[bucket .. '_resets'] == nil or hold[bucket .. '_resets'] == get(bucket .. '_resets') then
    put(bucket, number)
  end
  return number - (available(bucket) - before)
end

-- Two keys take turns, each for the length of the time to live, and Redis drops each after its
-- next turn: so the memory frees itself, without an index and without a sweeper.
local function generation(keys, ttl_ms)
  local turn = math.floor(NOW_MS / ttl_ms)
  return keys[turn % 2 + 1], (turn + 2) * ttl_ms - NOW_MS
end

local function remember_settled(id, settled)
  local key, lifetime_ms = generation(SETTLED, SETTLED_TTL_MS)
  write('HSET', key, id, table.concat({
    settled.state, digits(settled.held), digits(settled.free), digits(settled.plan),
    digits(settled.extra), digits(NOW_MS),
  }, '|'))
  write('PEXPIRE', key, digits(lifetime_ms))
  settled_now[id], settled_now_count = settled, settled_now_count + 1
end

local function settled_count()
  return read('HLEN', SETTLED[1]) + read('HLEN', SETTLED[2]) + settled_now_count
end

local function find_settled(id)
  if settled_now[id] then
    return settled_now[id]
  end
  for _, key in ipairs(SETTLED) do
    local text = read('HGET', key, id)
    if text then
      local state, held, free, plan, extra, at_ms =
        string.match(text, '^(%u+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$')
      if not state then
        corrupt('a settled reservation is unreadable')
      end
      if tonumber(at_ms) + SETTLED_TTL_MS > NOW_MS then
        return {state = state, held = tonumber(held), free = tonumber(free),
          plan = tonumber(plan), extra = tonumber(extra)}
      end
    end
  end
  return nil
end

-- Ends a hold: `amount` of it is spent, in the order in which requests are spent; the rest goes
-- back.
local function settle_hold(hold, kind, state, amount, at_ms, actor, detail)
  local settled = {state = state, held = hold_total(hold)}
  local lapsed = {}
  for _, bucket in ipairs(SPEND_ORDER) do
    settled[bucket] = math.min(hold[bucket], amount)
    amount = amount - settled[bucket]
    add('held_' .. bucket, -hold[bucket])
    lapsed[bucket] = give_back(hold, bucket, hold[bucket] - settled[bucket])
  end
  record(kind, at_ms, {id = hold.id, actor = actor, detail = detail, spent = settled, lapsed = lapsed})
  write('HDEL', HOLDS, hold.id)
  if hold.request ~= '' then
    write('HDEL', HOLDS, REQUEST .. hold.request)
  end
  write('ZREM', EXPIRIES, hold.id)
  remember_settled(hold.id, settled)
  return settled
end

----------------------------------------------------------------------------------------------
-- What is due whenever a user is touched.

local function load()
  local fields = {'plan_remaining', 'extra_remaining', 'free_used', 'next_reset_ts', 'plan'}
  local texts = read('HMGET', MAIN, unpack(fields))
  for index = 1, 3 do
    main[fields[index]] = integer(texts[index], fields[index])
  end
  main.next_reset_ts = texts[4] and is_integer(texts[4]) and tonumber(texts[4]) or 0
  if main.next_reset_ts > SECONDS_MAX then
    main.next_reset_ts = 0
  end
  main.plan = texts[5] or 'none'
  existed = texts[1] or texts[2] or texts[3] or texts[4] or texts[5]

  local pairs_read = read('HGETALL', ACCOUNT)
  for index = 1, #pairs_read, 2 do
    stored[pairs_read[index]] = integer(pairs_read[index + 1], pairs_read[index])
  end
  if stored.deleted_ms then
    fail('ACCOUNT_DELETED', '')
  end
  existed = existed or stored.opened_ms
end

-- The opening entry of an account that this system has not seen before: what its fields show,
-- and what was used already.
local function open()
  local used = {free = math.max(0, main.free_used)}
  local granted = {}
  for _, bucket in ipairs(BUCKETS) do
    granted[bucket] = available(bucket) + (used[bucket] or 0)
  end
  changed.opened_ms = NOW_MS
  record('open', NOW_MS, {granted = granted, spent = used})
  allot()
end

-- The main hash or the catalog was changed by somebody else since we last wrote.
local function adopt_changes()
  local granted, lapsed, gained, lost = {}, {}, 0, 0
  for _, bucket in ipairs(BUCKETS) do
    local difference = available(bucket) - (stored['seen_' .. bucket] or 0)
    granted[bucket] = math.max(0, difference)
    lapsed[bucket] = math.max(0, -difference)
    gained, lost = gained + granted[bucket], lost + lapsed[bucket]
  end
  if gained > 0 or lost > 0 then
    record('adjust', NOW_MS, {
      granted = granted, lapsed = lapsed, actor = 'outside',
      detail = 'the stored fields or the catalog were changed',
    })
  end
  if gained > 0 then
    allot()
  end
end

local function refresh(bucket, quota, movement)
  movement.lapsed[bucket] = available(bucket)
  movement.granted[bucket] = quota
  if bucket == 'free' then
    set_main('free_used', 0)
  else
    set_main('plan_remaining', quota)
  end
  add(bucket .. '_resets', 1)
end

-- A new month: the plan is refreshed to its quota, or ends if it was cancelled; a plan that the
-- catalog does not know keeps its remainder.
local function reset(at_ms)
  local movement = {granted = {}, lapsed = {}, detail = main.plan}
  if get('plan_cancelled') == 1 then
    refresh('plan', 0, movement)
    set_main('plan', 'none')
    changed.plan_cancelled = 0
  elseif PLANS[main.plan] then
    refresh('plan', PLANS[main.plan], movement)
  end
  if FREE_MONTHLY then
    refresh('free', FREE_ALLOWANCE, movement)
  end
  set_main('next_reset_ts', next_month(NOW_S))
  if next(movement.granted) then
    record('reset', at_ms, movement)
    allot()
  end
end

-- When the reset that is due happened: at the start of this month, or at a date within it that
-- somebody set. Nil if none is due.
local function reset_due_ms()
  if main.next_reset_ts <= 0 then
    set_main('next_reset_ts', next_month(NOW_S))
    return nil
  end
  if NOW_S < main.next_reset_ts then
    return nil
  end
  return math.max(main.next_reset_ts, month_start(year_month(NOW_S))) * 1000
end

-- Settles expired holds and a due reset, in the order in which they happened.
local function catch_up()
  local reset_ms = reset_due_ms()
  local expired = read('ZRANGEBYSCORE', EXPIRIES, '-inf', digits(NOW_MS))
  expired_count = #expired
  for _, id in ipairs(expired) do
    local hold = read_hold(id) or corrupt('a hold is missing')
    if reset_ms and reset_ms <= hold.expires_ms then
      reset(reset_ms)
      reset_ms = nil
    end
    settle_hold(hold, 'expire', 'EXPIRED', 0, hold.expires_ms)
  end
  if reset_ms then
    reset(reset_ms)
  end
end

-- Reads the account and brings it up to date. Every script begins with this.
local function touch()
  load()
  if stored.opened_ms then
    adopt_changes()
  else
    open()
  end
  catch_up()
end

----------------------------------------------------------------------------------------------
-- Writing.

local function entry_numbers(text)
  local at_ms, amounts = string.match(text, '^%l+|(%d+)|[^|]*|[^|]*|([%d,]*)|')
  local numbers = {}
  for number in string.gmatch((amounts or '') .. ',', '(%d*),') do
    numbers[#numbers + 1] = tonumber(number) or 0
  end
  if #numbers ~= 9 then
    corrupt('an entry of the history is unreadable')
  end
  return tonumber(at_ms), numbers
end

-- A month as it is kept: how many entries were folded into it, and their sums in the order of an
-- entry.
local function read_month(label)
  local text = read('HGET', MONTHS, label)
  local sums = {}
  for number in string.gmatch(text or string.rep('0', 10, ','), '%d+') do
    sums[#sums + 1] = tonumber(number)
  end
  if text and #sums ~= 10 then
    corrupt('a month is unreadable')
  end
  for index = 1, 10 do
    sums[index] = sums[index] or 0
  end
  return sums
end

-- Makes room in the history: the oldest entries become part of the totals of their months.
local function fold_history()
  local length = read('LLEN', HISTORY)
  local excess = length + #entries - HISTORY_ENTRIES_MAX
  if excess <= 0 then
    return
  end
  local count = math.min(length, math.max(FOLD_ENTRIES, math.min(excess, FOLD_ENTRIES + #entries)))
  if count == 0 then
    return
  end
  local months = {}
  for _, text in ipairs(read('LRANGE', HISTORY, -count, -1)) do
    local at_ms, numbers = entry_numbers(text)
    local label = string.format('%04d-%02d', year_month(math.floor(at_ms / 1000)))
    local sums = months[label] or read_month(label)
    sums[1] = sums[1] + 1
    for index = 1, 9 do
      sums[index + 1] = sums[index + 1] + numbers[index]
    end
    months[label] = sums
  end
  write('LTRIM', HISTORY, 0, -count - 1)
  for label, sums in pairs(months) do
    for index, sum in ipairs(sums) do
      sums[index] = digits(sum)
    end
    write('HSET', MONTHS, label, table.concat(sums, ','))
  end
end

local function write_fields(key, fields)
  local command = {'HSET', key}
  for field, value in pairs(fields) do
    command[#command + 1] = field
    command[#command + 1] = type(value) == 'number' and digits(value) or value
  end
  if #command > 2 then
    write(unpack(command))
  end
end

-- Writes what this step has changed. Everything was read and checked before the first write.
local function save()
  if #entries > 0 then
    fold_history()
    add('history_entries', #entries)
    for _, entry in ipairs(entries) do
      write('LPUSH', HISTORY, entry)
    end
  end
  for _, bucket in ipairs(BUCKETS) do
    local seen = available(bucket)
    if seen ~= (stored['seen_' .. bucket] or 0) then
      changed['seen_' .. bucket] = seen
    end
  end
  local fields = {}
  for field in pairs(main_changed) do
    fields[field] = main[field]
  end
  write_fields(MAIN, fields)
  write_fields(ACCOUNT, changed)
  for _, command in ipairs(writes) do
    redis.call(unpack(command))
  end
  expired_saved_count = expired_count
end

----------------------------------------------------------------------------------------------
-- Answering.

local function quota_reply()
  local reply = {
    expired_saved_count,
    main.plan == 'none' and '' or main.plan, get('plan_cancelled'), main.next_reset_ts,
    get('allotted'), available('free'), available('plan'), available('extra'),
  }
  for _, counter in ipairs({'held', 'granted', 'spent', 'lapsed'}) do
    for _, bucket in ipairs(BUCKETS) do
      reply[#reply + 1] = get(counter .. '_' .. bucket)
    end
  end
  return reply
end

-- Writes what the step has changed, and answers.
local function done(status, ...)
  save()
  return {status, quota_reply(), ...}
end

-- Answers without having changed anything but what was due. Somebody of whom nothing is known
-- leaves no trace by asking.
local function unchanged(status, ...)
  if existed then
    save()
  end
  return {status, quota_reply(), ...}
end
