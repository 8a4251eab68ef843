-- Ends the plan with the next reset.
local actor = ARGV[1]
touch()
if main.plan == 'none' or main.plan == '' then
  return unchanged('NO_PLAN')
end
if get('plan_cancelled') == 1 then
  return unchanged('REPLAYED')
end
changed.plan_cancelled = 1
record('cancel', NOW_MS, {actor = actor, detail = main.plan})
return done('OK')
