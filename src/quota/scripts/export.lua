-- Reads everything of a user at one instant and changes nothing, not even what is due. With
-- '1' also what was settled lately and the stored answers.
local everything = ARGV[1] == '1'
local reply = {read('HGETALL', MAIN), read('HGETALL', ACCOUNT), read('HGETALL', HOLDS),
  read('ZRANGE', EXPIRIES, 0, -1, 'WITHSCORES'), read('LRANGE', HISTORY, 0, -1),
  read('HGETALL', MONTHS), read('HGETALL', PAYMENTS)}
if everything then
  for _, keys in ipairs({SETTLED, ANSWERS}) do
    for _, key in ipairs(keys) do
      reply[#reply + 1] = read('HGETALL', key)
    end
  end
end
return {'OK', NOW_MS, reply}
