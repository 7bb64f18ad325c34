"""The Lua scripts of a store in Redis. Redis executes each script as a whole, or not at all.

A user has three keys, in the order in which scripts receive them:

- meta: a hash with the version, the number of arrivals, what was trimmed, and whether the user was
  forgotten,
- contents: a hash from event ids to the events, as JSON,
- order: a sorted set whose scores are the times. A member is the number of the event's arrival,
  with 16 digits, followed by the event id. Redis sorts members of equal scores as text, and so by
  arrival.
"""

# KEYS: the keys of each user. ARGV: the number of events that a user keeps; then for each event the
# index of its user from 0, its id, its time and its content.
# Returns {accepted, duplicates, trimmed}, or {-1, the index of the event that is a conflict}.
APPEND = """
local most = tonumber(ARGV[1])
local duplicates = 0
local fresh = {}
local contents = {}
for at = 2, #ARGV, 4 do
  local first = 3 * tonumber(ARGV[at])
  local id = ARGV[at + 1]
  local content = ARGV[at + 3]
  local name = first .. ':' .. id
  local same = contents[name] or redis.call('HGET', KEYS[first + 2], id)
  if not same then
    contents[name] = content
    fresh[#fresh + 1] = {first, id, ARGV[at + 2], content}
  elseif same == content then
    duplicates = duplicates + 1
  else
    return {-1, (at - 2) / 4}
  end
end

local changed = {}
local is_changed = {}
for _, event in ipairs(fresh) do
  local first = event[1]
  local arrival = redis.call('HINCRBY', KEYS[first + 1], 'arrivals', 1)
  redis.call('HSET', KEYS[first + 2], event[2], event[4])
  redis.call('ZADD', KEYS[first + 3], event[3], string.format('%016d', arrival) .. event[2])
  if not is_changed[first] then
    is_changed[first] = true
    changed[#changed + 1] = first
  end
end

local trimmed = 0
for _, first in ipairs(changed) do
  redis.call('HINCRBY', KEYS[first + 1], 'version', 1)
  local excess = redis.call('ZCARD', KEYS[first + 3]) - most
  if excess > 0 then
    for _, member in ipairs(redis.call('ZRANGE', KEYS[first + 3], 0, excess - 1)) do
      redis.call('HDEL', KEYS[first + 2], string.sub(member, 17))
    end
    redis.call('ZREMRANGEBYRANK', KEYS[first + 3], 0, excess - 1)
    redis.call('HINCRBY', KEYS[first + 1], 'trimmed', excess)
    trimmed = trimmed + excess
  end
end
return {#fresh, duplicates, trimmed}
"""

# KEYS: the keys of each user. ARGV: the number of events to return.
# Returns for each user {version, forgotten, trimmed, the events as a JSON array, oldest first}. One
# text is parsed much faster than many.
LAST = """
local count = tonumber(ARGV[1])
local users = {}
for first = 0, #KEYS - 1, 3 do
  local found = redis.call('HMGET', KEYS[first + 1], 'version', 'forgotten', 'trimmed')
  local events = {}
  if count > 0 then
    for nth, member in ipairs(redis.call('ZRANGE', KEYS[first + 3], -count, -1)) do
      events[nth] = redis.call('HGET', KEYS[first + 2], string.sub(member, 17))
    end
  end
  local text = '[' .. table.concat(events, ',') .. ']'
  users[#users + 1] = {found[1] or '0', found[2] or '0', found[3] or '0', text}
end
return users
"""

# KEYS: the keys of a user. Returns 1 if something was changed, otherwise 0.
FORGET = """
if redis.call('HGET', KEYS[1], 'forgotten') and redis.call('EXISTS', KEYS[3]) == 0 then
  return 0
end
redis.call('DEL', KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'forgotten', '1', 'trimmed', '0')
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 1
"""
