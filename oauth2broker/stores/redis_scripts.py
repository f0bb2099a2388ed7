"""What a :class:`RedisStore` has the server do in one step. ``KEYS[1]`` is a record's or a lease's hash."""

# ARGV[1] is what is expected, [2] when the record is dead, [3] for how long it is kept then, the rest fields
# (see redis._fields), of which [7] is the stamp.
PUT = """
local function put()
  redis.call('HSET', KEYS[1], unpack(ARGV, 4))
  if ARGV[2] == '' then
    redis.call('PERSIST', KEYS[1])
  else
    local time = redis.call('TIME')
    local left = math.max(tonumber(ARGV[2]) - time[1] * 1000, 0)
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', left + tonumber(ARGV[3])))
  end
end
"""
# A script also for what a client would read by itself: no replica and no cache of the client's answers it,
# and both may be behind.
READ = "return redis.call('HMGET', KEYS[1], 'record', 'stamp')"
ADD = (
    PUT
    + """
local held = redis.call('HMGET', KEYS[1], 'record', 'stamp')
if not held[1] then put() end
return (not held[1] or held[2] == ARGV[7]) and 1 or 0 -- the latter: sent again, the first answer was lost
"""
)
SWAP = (
    PUT
    + """
local held = redis.call('HMGET', KEYS[1], 'refresh', 'revoked', 'stamp')
if not held[1] then return 'missing' end
if held[3] == ARGV[7] then return 'updated' end -- sent again: the first answer was lost
if held[2] ~= '0' or held[1] ~= ARGV[1] then return 'refresh_mismatch' end
put()
return 'updated'
"""
)
REPLACE = (
    PUT
    + r"""
local stamp = redis.call('HGET', KEYS[1], 'stamp') or ''
if string.find(stamp, '[\128-\255]') then stamp = '' end -- damaged: it is read so, too (redis._text)
if stamp == ARGV[7] then return 1 end -- as above
if stamp ~= ARGV[1] then return 0 end
put()
return 1
"""
)

# ARGV[1] is the owner, [2] milliseconds, [3] for how long more a lapsed lease is known.
HOLD = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function hold()
  redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until', string.format('%.0f', now + tonumber(ARGV[2])))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', tonumber(ARGV[2]) + tonumber(ARGV[3])))
end
"""
TAKE = (
    HOLD
    + """
local held = redis.call('HMGET', KEYS[1], 'owner', 'until')
if held[1] and held[1] ~= ARGV[1] then
  local left = tonumber(held[2]) - now
  local has_lapsed = left <= 0 or left > 2 * tonumber(ARGV[2]) -- the latter: the clock was set back
  if not has_lapsed or held[1] ~= ARGV[4] then return {held[1], has_lapsed and 1 or 0} end
end
hold()
return false
"""
)
PROLONG = (
    HOLD
    + """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
hold()
return 1
"""
)
RELEASE = "if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('DEL', KEYS[1]) end"
