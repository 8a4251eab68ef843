-- Gives a hold more time. A hold is never shortened.
local id, ttl_ms = ARGV[1], tonumber(ARGV[2])
touch()
local settled = find_settled(id)
if settled then
  return unchanged(settled.state)
end
local hold = read_hold(id)
if not hold then
  return unchanged('NOT_FOUND')
end
if NOW_MS + ttl_ms > hold.expires_ms then
  hold.expires_ms = NOW_MS + ttl_ms
  write_hold(hold)
end
return done('OK', hold_reply(hold))
