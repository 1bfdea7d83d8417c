-- The few commands that state/lua/exchange.lua uses, over tables. They decide nothing.
-- A hash keeps its fields in the order in which they came, as a server's does while it is small.
-- Returns redis, cmsgpack, set_time(us), take_published(), forget_all().

local now_us, published = 0, {}
local hashes = {}

local function hash_at(key)
  local hash = hashes[key]
  if hash and hash.expires_ms and hash.expires_ms * 1000 <= now_us then hash = nil end
  if not hash then
    hash = { names = {}, values = {} }
    hashes[key] = hash
  end
  return hash
end

-- As a server writes the numbers of a script.
local function text_of(value)
  return type(value) == 'number' and string.format('%.17g', value) or value
end

local function put(hash, name, value)
  if not hash.values[name] then hash.names[#hash.names + 1] = name end
  hash.values[name] = text_of(value)
end

local commands = {}

function commands.TIME()
  local seconds = math.floor(now_us / 1e6)
  return { text_of(seconds), text_of(now_us - seconds * 1e6) }
end

function commands.HGETALL(key)
  local hash, pairs_of = hash_at(key), {}
  for i, name in ipairs(hash.names) do
    pairs_of[2 * i - 1], pairs_of[2 * i] = name, hash.values[name]
  end
  return pairs_of
end

function commands.HSET(key, ...)
  local hash, given = hash_at(key), { ... }
  for i = 1, #given, 2 do put(hash, given[i], given[i + 1]) end
end

function commands.HSETNX(key, name, value)
  local hash = hash_at(key)
  if not hash.values[name] then put(hash, name, value) end
end

function commands.HDEL(key, ...)
  local hash = hash_at(key)
  for _, name in ipairs({ ... }) do
    if hash.values[name] then
      hash.values[name] = nil
      for i, other in ipairs(hash.names) do
        if other == name then
          table.remove(hash.names, i)
          break
        end
      end
    end
  end
  if #hash.names == 0 then hashes[key] = nil end -- and its time with it
end

function commands.PEXPIRE(key, ttl_ms)
  local hash = hash_at(key)
  if #hash.names > 0 then hash.expires_ms = math.floor(now_us / 1000) + ttl_ms end
end

function commands.PUBLISH(_, message)
  published[#published + 1] = message
end

-- What is packed leaves Lua as JSON; what is to be unpacked has been, before it came.
local ESCAPES = { ['"'] = '\\"', ['\\'] = '\\\\' }
local function escape(character)
  return ESCAPES[character] or string.format('\\u%04x', string.byte(character))
end

local function json(value)
  local kind = type(value)
  if kind == 'string' then return '"' .. string.gsub(value, '[%c"\\]', escape) .. '"' end
  if kind ~= 'table' then return kind == 'number' and text_of(value) or tostring(value) end
  local members = {}
  for i = 1, #value do members[i] = json(value[i]) end
  return '[' .. table.concat(members, ',') .. ']'
end

return { call = function(command, ...) return commands[command](...) end },
  { pack = json, unpack = function(value) return value end },
  function(us) now_us = us end,
  function()
    local taken = published
    published = {}
    return taken
  end,
  function() hashes = {} end
