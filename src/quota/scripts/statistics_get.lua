-- Reads days: for each, two keys, the counts and the users.
local reply = {}
for index = 1, #KEYS, 2 do
  local day = redis.call('HMGET', KEYS[index],
    'requests', 'refusals', 'failures', 'pages', 'characters')
  for number = 1, 5 do
    day[number] = tonumber(day[number] or 0)
  end
  day[6] = redis.call('PFCOUNT', KEYS[index + 1])
  reply[#reply + 1] = day
end
return {'OK', reply}
