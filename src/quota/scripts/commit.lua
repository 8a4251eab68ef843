-- Turns a hold into spent requests; what is held but not committed goes back. With an answer, it
-- is stored in the same atomic step, so that a charge whose reply was lost is never paid twice.
local id, amount, actor, answer = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

-- The field that counts the bytes in a generation of answers; no request id contains a slash.
local BYTES = 'bytes/'

local function store_answer(request, fingerprint, settled)
  local key, lifetime_ms = generation(ANSWERS, ANSWER_TTL_MS)
  local bytes = integer(read('HGET', key, BYTES), BYTES) + #answer
  if bytes > ANSWERS_BYTES_MAX then
    return
  end
  write('HSET', key, BYTES, digits(bytes), request, table.concat({
    fingerprint, digits(NOW_MS), digits(settled.free), digits(settled.plan),
    digits(settled.extra), answer,
  }, '|'))
  write('PEXPIRE', key, digits(lifetime_ms))
end

touch()

-- A negative amount stands for all that is held.
local settled = find_settled(id)
if settled then
  if settled.state ~= 'COMMITTED' then
    return unchanged(settled.state)
  end
  local spent = settled.free + settled.plan + settled.extra
  if spent ~= (amount < 0 and settled.held or amount) then
    return unchanged('COMMITTED')
  end
  return unchanged('REPLAYED', {settled.free, settled.plan, settled.extra})
end
local hold = read_hold(id)
if not hold then
  return unchanged('NOT_FOUND')
end
if amount < 0 then
  amount = hold_total(hold)
end
if amount > hold_total(hold) then
  return unchanged('AMOUNT_EXCEEDS_HELD', hold_total(hold))
end
local fingerprint
if answer and answer ~= '' and hold.request ~= '' then
  fingerprint = string.match(read('HGET', HOLDS, REQUEST .. hold.request) or '', '^(%x+)|')
    or corrupt('a running request is unreadable')
end
settled = settle_hold(hold, 'commit', 'COMMITTED', amount, NOW_MS, actor)
if fingerprint then
  store_answer(hold.request, fingerprint, settled)
end
return done('OK', {settled.free, settled.plan, settled.extra})
