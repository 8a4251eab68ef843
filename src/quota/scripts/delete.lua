-- Deletes everything of a user, readable or not, and leaves a tombstone, so that the id stays
-- closed.
local tombstone = redis.pcall('HGET', ACCOUNT, 'deleted_ms')
if type(tombstone) == 'string' then
  return {'REPLAYED'}
end
if redis.call('UNLINK', unpack(KEYS)) == 0 then
  return {'NO_ACCOUNT'}
end
redis.call('HSET', ACCOUNT, 'deleted_ms', digits(NOW_MS))
return {'OK'}
