-- Gives a hold back whole.
local id, actor, reason = ARGV[1], ARGV[2], ARGV[3]
touch()
local settled = find_settled(id)
if settled then
  return unchanged(settled.state == 'RELEASED' and 'REPLAYED' or settled.state)
end
local hold = read_hold(id)
if not hold then
  return unchanged('NOT_FOUND')
end
settle_hold(hold, 'release', 'RELEASED', 0, NOW_MS, actor, reason)
return done('OK')
