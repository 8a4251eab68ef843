-- Writes keys in place of all that are named. ARGV: 'absent' to write only if none of them is
-- there, or 'replace'; then for each key that is written its number among KEYS, its type, its
-- remaining lifetime ('' if it has none), how many words follow, and these words.
local WRITES = {string = 'SET', hash = 'HSET', list = 'RPUSH', set = 'SADD', zset = 'ZADD'}
-- Even, so that fields stay with their values; and few enough for Lua's stack.
local WORDS_MAX = 1000
if ARGV[1] == 'absent' and redis.call('EXISTS', unpack(KEYS)) > 0 then
  return 'PRESENT'
end
redis.call('DEL', unpack(KEYS))
local at = 2
while at <= #ARGV do
  local key, kind, remaining_ms = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  local first, last = at + 4, at + 3 + tonumber(ARGV[at + 3])
  for word = first, last, WORDS_MAX do
    redis.call(WRITES[kind], key, unpack(ARGV, word, math.min(word + WORDS_MAX - 1, last)))
  end
  if remaining_ms ~= '' then
    redis.call('PEXPIRE', key, remaining_ms)
  end
  at = last + 1
end
return 'WRITTEN'
