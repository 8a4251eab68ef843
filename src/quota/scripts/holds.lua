-- Lists the open holds; their number is bounded.
touch()
local reply, holds = unchanged('OK'), {}
for _, id in ipairs(read('ZRANGE', EXPIRIES, 0, -1)) do
  holds[#holds + 1] = hold_reply(read_hold(id) or corrupt('a hold is missing'))
end
reply[3] = holds
return reply
