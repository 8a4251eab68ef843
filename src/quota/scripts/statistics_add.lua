-- Adds what a server counted on one day. Each server numbers its batches: one that was sent again
-- because its reply was lost is recognised and not added twice.
local BATCH, DAY, USERS = KEYS[1], KEYS[2], KEYS[3]
local number = tonumber(ARGV[1])
local names = {'requests', 'refusals', 'failures', 'pages', 'characters'}
-- A server that was silent for longer has long dropped its batch.
local WEEK_MS = 7 * 86400 * 1000
if number <= tonumber(redis.call('GET', BATCH) or 0) then
  return {'REPLAYED'}
end
redis.call('SET', BATCH, ARGV[1], 'PX', WEEK_MS)
for index, name in ipairs(names) do
  if ARGV[index + 1] ~= '0' then
    redis.call('HINCRBY', DAY, name, ARGV[index + 1])
  end
end
for index = #names + 2, #ARGV do
  redis.call('PFADD', USERS, ARGV[index])
end
return {'OK'}
