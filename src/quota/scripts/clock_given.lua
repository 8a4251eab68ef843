-- A clock that the caller moves: the last argument is the time. Only a Store made by
-- `Store::with_clock` has it, and no setting makes one.
local function clock_ms()
  return tonumber(ARGV[#ARGV])
end
