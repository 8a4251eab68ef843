-- Grants what was paid for, or adjusts by hand: once for each payment id, for as long as the
-- account exists.
local kind, payment, actor, plan = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local bucket, number, detail = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local parameters = table.concat({kind, plan, bucket, ARGV[6], detail}, '|')

-- A payment as it is kept: when, what was granted and what lapsed by bucket, for what.
local function find_payment()
  local text = read('HGET', PAYMENTS, payment)
  if not text then
    return nil
  end
  local amounts, known = string.match(text, '^%d+|([%d,]+)|(.*)$')
  local numbers = {}
  for amount in string.gmatch(amounts or '', '%d+') do
    numbers[#numbers + 1] = tonumber(amount)
  end
  if #numbers ~= 6 then
    corrupt('a payment is unreadable')
  end
  return known, numbers
end

touch()

local known, numbers = find_payment()
if known and known ~= parameters then
  return unchanged('ALREADY_EXISTS')
elseif known then
  return unchanged('REPLAYED', numbers)
end
if read('HLEN', PAYMENTS) >= PAYMENTS_MAX then
  return unchanged('TOO_MANY_PAYMENTS')
end
if kind == 'activate' then
  number = PLANS[plan]
  if not number then
    return unchanged('UNKNOWN_PLAN')
  end
  -- What is left of the old plan stays until the next reset: a purchase never lowers.
  set_main('plan', plan)
  changed.plan_cancelled = 0
end
-- No more is taken away than is there.
number = math.max(number, -available(bucket))
if bucket == 'free' then
  -- More may have been used than is allowed by now: what is granted is there all the same.
  set_main('free_used', FREE_ALLOWANCE - available('free') - number)
else
  put(bucket, number)
end
local movement = {id = payment, actor = actor, detail = detail, granted = {}, lapsed = {}}
movement.granted[bucket] = math.max(0, number)
movement.lapsed[bucket] = math.max(0, -number)
record(kind, NOW_MS, movement)
if number > 0 then
  allot()
end
numbers = {}
for _, amounts in ipairs({movement.granted, movement.lapsed}) do
  for _, name in ipairs(BUCKETS) do
    numbers[#numbers + 1] = amounts[name] or 0
  end
end
write('HSET', PAYMENTS, payment,
  table.concat({digits(NOW_MS), table.concat(numbers, ','), parameters}, '|'))
return done('OK', numbers)
