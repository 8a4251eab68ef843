-- Reads entries of the history, newest first, from before the entry of a given number (0: from the
-- newest). An entry's number is not kept: the newest one's is how many there ever were.
local before, count = tonumber(ARGV[1]), tonumber(ARGV[2])
touch()
local reply = unchanged('OK')
local newest = get('history_entries')
local first = before > 0 and math.min(before - 1, newest) or newest
reply[3] = first
reply[4] = read('LRANGE', HISTORY, newest - first, newest - first + count - 1)
return reply
