-- Reads the monthly totals and the entries that are not part of them yet.
touch()
local reply = unchanged('OK')
reply[3] = read('HGETALL', MONTHS)
reply[4] = read('LRANGE', HISTORY, 0, -1)
return reply
