-- Reads keys at one instant: for each its type, its remaining lifetime and all that is in it.
local READS = {
  string = {'GET'}, hash = {'HGETALL'}, list = {'LRANGE', 0, -1}, set = {'SMEMBERS'},
  zset = {'ZRANGE', 0, -1, 'WITHSCORES'},
}
local reply = {}
for index, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  local content = {}
  if READS[kind] then
    local command, first, last, scores = unpack(READS[kind])
    if scores then
      content = redis.call(command, key, first, last, scores)
    elseif last then
      content = redis.call(command, key, first, last)
    else
      content = redis.call(command, key)
    end
  end
  if type(content) ~= 'table' then
    content = {content}
  end
  reply[index] = {kind, redis.call('PTTL', key), content}
end
return reply
