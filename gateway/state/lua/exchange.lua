-- One exchange of a gateway with the fleet: it says what it uses and keeps, asks for slots, and learns what it
-- holds. Atomic; by the server's clock; absolute values under a sequence number, so doing one twice is harmless.
--
-- KEYS  gateways, drains, latency, news, openings, then a grants key for each report    (layout: state/keys.py)
-- ARGV  msgpack map:
--   id, seq            the gateway; its message number, growing
--   ttl_ms             how long its heartbeat lasts
--   is_full            this names all that it holds: needed when the fleet does not know it (any more)
--   is_leaving         it ends: all that it holds is free
--   known_gateways     how many it knew of before
--   born_ms            the birth of the fleet's memory as it last heard of it, or 0
--   reports            [[limit, keep, in_use, reserve, cap, held], ...]: slots that all may use, that it keeps,
--                      uses, wants idle, and may hold at most; and, if it is full, that it held before, of a
--                      memory that was lost
--   asks               [[report index, ...], ...]: a request each, wanting ONE slot at the first with room; a
--                      pair of indexes in place of one wants a slot of both: a backend's, and its probe permit
--   wants              [[count, age_ms, [report index, ...]], ...]: so many requests that wait there for ONE slot
--                      each, at any of these, the first for so long; what it is given for them it holds idle
--   latency            msgpack to store, or nil: then it wants everybody's back
--   drains             [[name, for_ms], ...] to set: 0 without an end, -1 to lift
--   known_drains       the same, for a fleet that has just lost its memory
--   openings           [[backend, reason, ms, streak], ...] of circuits, to keep and to tell to all
--   closings           [backend, ...]: of those this gateway has opened before
--   key_ttl_ms, drains_ttl_ms
-- Returns msgpack [status, known gateways, born_ms, [[granted, free, idle elsewhere, share], ...], [index or 0, ...],
--                  [drained name, ms left or -1, ...], [age_ms, latency, ...] or nil,
--                  [[gateway, backend, reason, ms left, streak], ...] for a full report]
--   status "ok"; "stale": a newer message came before; "unknown": not known, so only a full report counts.
--
-- Invariant: the grants of live gateways, and what those held that are missing since the fleet's memory was lost,
-- add up to at most the limit. Exceptions, each until streams have ended: a lowered limit, and what gateways that
-- were cut off have begun (it is counted, never refused).

local request = cmsgpack.unpack(ARGV[1])
local me = request.id
local FIRST_GRANTS_KEY = 6
-- Live gateways call at least once a second. A longer step is a clock that was set, or all of us were away (the
-- server stood still, say): then time goes on slowly, until everybody has had the time to come back.
local LONGEST_STEP_MS, AWAY_STEP_MS = 1200, 300
-- Who was told that a backend is short tells at once what comes free there, for longer than this (CONTENDED_S).
local RECALL_AGAIN_MS = 200
-- A gateway in which somebody waits says so each 50 ms; one that is gone holds nobody up for longer than this.
local WANT_TTL_MS = 250

-- The fleet's clock follows the server's, but a server whose clock jumps does not bury the living.
local time = redis.call('TIME')
local server_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local beats, marks = {}, {}
local stored = redis.call('HGETALL', KEYS[1])
for i = 1, #stored, 2 do
  local into = string.sub(stored[i], 1, 1) == '!' and marks or beats
  into[stored[i]] = stored[i + 1]
end
local seen_ms = tonumber(marks['!seen'] or server_ms)
local step_ms = math.max(server_ms - seen_ms, 0)
if step_ms > LONGEST_STEP_MS then step_ms = AWAY_STEP_MS end
local now_ms = tonumber(marks['!clock'] or server_ms) + step_ms

-- Who is alive, me included from here on.
local is_alive, gateways, my_seq = { [me] = true }, 1, nil
for name, beat in pairs(beats) do
  local seq, expires_ms = string.match(beat, '^(%d+):(%d+)$')
  if tonumber(expires_ms) <= now_ms then
    redis.call('HDEL', KEYS[1], name)
    redis.call('HDEL', KEYS[3], name, '@' .. name)
  elseif name == me then
    my_seq = tonumber(seq)
  else
    is_alive[name] = true
    gateways = gateways + 1
  end
end
redis.call('HSET', KEYS[1], '!clock', now_ms, '!seen', server_ms)
redis.call('PEXPIRE', KEYS[1], request.key_ttl_ms)
if my_seq and request.seq <= my_seq then return cmsgpack.pack({ 'stale' }) end
if not my_seq and not request.is_full then return cmsgpack.pack({ 'unknown' }) end

if request.is_leaving then
  redis.call('HDEL', KEYS[1], me)
  redis.call('HDEL', KEYS[3], me, '@' .. me)
  for i = 1, #request.reports do redis.call('HDEL', KEYS[FIRST_GRANTS_KEY + i - 1], me, '?' .. me) end
  return cmsgpack.pack({ 'ok', gateways - 1, 0, {}, {}, {} })
end

-- After the fleet's memory was lost, those who have not told yet what they hold go on with it: they are missing.
-- Until all that were known of are back, or a heartbeat's time has passed, no more slots are given than those held
-- who are back.
local born_ms = tonumber(marks['!born'] or now_ms)
if not marks['!born'] then
  redis.call('HSET', KEYS[1], '!born', born_ms)
  redis.call('PUBLISH', KEYS[4], cmsgpack.pack({ 'forgotten', me }))
end
local is_young = now_ms < born_ms + request.ttl_ms
local comes_back = is_young and not my_seq and request.born_ms ~= 0 and request.born_ms ~= born_ms
local back, known = tonumber(marks['!back'] or 0), tonumber(marks['!known'] or 0)
if comes_back then
  back, known = back + 1, math.max(known, request.known_gateways)
  redis.call('HSET', KEYS[1], '!back', back, '!known', known)
end
local missing = is_young and math.max(known - back, 0) or 0
local divisor = gateways + missing

-- Since when this gateway's own wait, by report.
local wants, my_since_ms = request.wants or {}, {}
for _, want in ipairs(wants) do
  for _, i in ipairs(want[3]) do my_since_ms[i] = math.min(my_since_ms[i] or now_ms, now_ms - want[2]) end
end

local backends = {}
for i, report in ipairs(request.reports) do
  local backend = { limit = report[1], in_use = report[3], reserve = report[4], others = 0, idle_elsewhere = 0, cap = report[5] }
  backend.recalled_ms = 0
  local key = KEYS[FIRST_GRANTS_KEY + i - 1]
  backend.part = math.floor(backend.limit / divisor)
  backend.excess, backend.over = 0, 0
  backend.ceiling = backend.limit
  backend.wanted, backend.wanted_before, backend.wanters = 0, 0, {}
  local grants = redis.call('HGETALL', key)
  for j = 1, #grants, 2 do
    local name = grants[j]
    if name == '!recalled' then
      backend.recalled_ms = tonumber(grants[j + 1])
    elseif name == '!back' then
      backend.back = tonumber(grants[j + 1])
    elseif string.sub(name, 1, 1) == '?' then
      local gateway = string.sub(name, 2)
      local count, since_ms, until_ms = string.match(grants[j + 1], '^(%d+):(%d+):(%d+)$')
      if gateway == me then
        backend.had_want = true
      elseif not is_alive[gateway] or tonumber(until_ms) <= now_ms then
        redis.call('HDEL', key, name)
      else
        count, since_ms = tonumber(count), tonumber(since_ms)
        backend.wanted = backend.wanted + count
        if since_ms < (my_since_ms[i] or now_ms) then backend.wanted_before = backend.wanted_before + count end
        backend.wanters[#backend.wanters + 1] = { since_ms, gateway, count }
      end
    elseif not is_alive[name] then
      redis.call('HDEL', key, name)
    elseif name == me then
      backend.had = true
    else
      local granted, in_use = string.match(grants[j + 1], '^(%d+):(%d+)$')
      granted = tonumber(granted)
      backend.others = backend.others + granted
      backend.idle_elsewhere = backend.idle_elsewhere + granted - tonumber(in_use)
      if granted > backend.part then
        backend.excess, backend.over = backend.excess + granted - backend.part, backend.over + 1
      end
    end
  end
  -- The slots that are back; of who is new and came before anybody was back, its grant.
  if comes_back then
    backend.back = (backend.back or backend.others) + report[6]
    redis.call('HSET', key, '!back', backend.back)
    redis.call('PEXPIRE', key, request.key_ttl_ms)
  end
  if missing > 0 then
    backend.ceiling = math.min(backend.limit, backend.back or backend.others)
  elseif backend.back and not is_young then
    redis.call('HDEL', key, '!back')
  end
  -- What runs is a fact; what is kept idle must fit.
  backend.mine = math.max(backend.in_use, math.min(report[2], backend.ceiling - backend.others))
  backend.used = backend.in_use
  backends[i] = backend
end

local function free(backend)
  return math.max(math.min(backend.ceiling - backend.others, backend.cap) - backend.mine, 0)
end

-- Others have one to spare for sure, or may have by what they have not told yet.
local function is_worth_recalling(backend)
  if backend.idle_elsewhere > 0 then return true end
  return backend.others > 0 and now_ms >= backend.recalled_ms + RECALL_AGAIN_MS
end

-- What may be taken now: nobody gets a slot past those who have waited longer at other gateways.
local function room(backend)
  return free(backend) - backend.wanted_before
end

local function take(backend)
  backend.mine, backend.used = backend.mine + 1, backend.used + 1
end

local answers, recalled, is_recalled = {}, {}, {}
local function recall(i)
  if not is_recalled[i] and is_worth_recalling(backends[i]) then
    is_recalled[i] = true
    recalled[#recalled + 1] = KEYS[FIRST_GRANTS_KEY + i - 1]
    redis.call('HSET', recalled[#recalled], '!recalled', now_ms)
    redis.call('PEXPIRE', recalled[#recalled], request.key_ttl_ms)
  end
end
for n, ask in ipairs(request.asks) do
  answers[n] = 0
  for _, seat in ipairs(ask) do
    local i, permit = seat, nil
    if type(seat) == 'table' then i, permit = seat[1], backends[seat[2]] end
    if room(backends[i]) > 0 and (not permit or free(permit) > 0) then
      take(backends[i])
      if permit then take(permit) end
      answers[n] = i
      break
    end
    recall(i)
  end
end

-- For those who wait: slots to hold idle, which are theirs as soon as the answer is there. What they lack is
-- kept, so that whoever frees a slot knows whom to tell.
local lacking = {}
for _, want in ipairs(wants) do
  local left = want[1]
  for _, i in ipairs(want[3]) do
    local given = math.min(math.max(room(backends[i]), 0), left)
    backends[i].mine, backends[i].used, left = backends[i].mine + given, backends[i].used + given, left - given
    backends[i].kept = (backends[i].kept or 0) + given
  end
  if left > 0 then
    for _, i in ipairs(want[3]) do
      lacking[i] = (lacking[i] or 0) + left
      recall(i)
    end
  end
end
if #recalled > 0 then redis.call('PUBLISH', KEYS[4], cmsgpack.pack({ 'recall', me, recalled })) end

local results = {}
for i, backend in ipairs(backends) do
  -- An idle reserve comes out of what is plentiful: at most half of the free slots are anybody's reserve.
  local unwanted = math.max(free(backend) - backend.wanted, 0)
  local spare = gateways == 1 and unwanted or math.floor(unwanted / (2 * gateways))
  local wanted = backend.reserve - (backend.mine - backend.used)
  if wanted > 0 then backend.mine = backend.mine + math.min(wanted, spare) end
  local key = KEYS[FIRST_GRANTS_KEY + i - 1]
  backend.used = backend.used - (backend.kept or 0)
  if lacking[i] then
    redis.call('HSET', key, '?' .. me, lacking[i] .. ':' .. my_since_ms[i] .. ':' .. (now_ms + WANT_TTL_MS))
    redis.call('PEXPIRE', key, request.key_ttl_ms)
  elseif backend.had_want then
    redis.call('HDEL', key, '?' .. me)
  end
  if backend.mine > 0 then
    redis.call('HSET', key, me, backend.mine .. ':' .. backend.used)
    redis.call('PEXPIRE', key, request.key_ttl_ms)
  elseif backend.had then
    redis.call('HDEL', key, me)
  end
  -- The part that a gateway may use when it is cut off: an equal one, less what others hold above theirs. While
  -- some are missing nobody knows what that is: then what it holds.
  local under = divisor - backend.over - (backend.mine > backend.part and 1 or 0)
  local share = math.max(1, backend.part - math.ceil(backend.excess / math.max(under, 1)))
  if missing > 0 then share = math.max(1, math.min(share, backend.mine)) end
  local left = backend.limit - backend.others - backend.mine
  results[i] = { backend.mine, left < 0 and left or free(backend), backend.idle_elsewhere, share }
end
redis.call('HSET', KEYS[1], me, request.seq .. ':' .. (now_ms + request.ttl_ms))

-- Slots are free that others wait for: those who have waited longest are told, as many as there are slots.
local freed, is_told = {}, {}
for _, backend in ipairs(backends) do
  local left = free(backend)
  if left > 0 and backend.wanted > 0 then
    table.sort(backend.wanters, function(one, other) return one[1] < other[1] end)
    for _, wanter in ipairs(backend.wanters) do
      if left <= 0 then break end
      left = left - wanter[3]
      if not is_told[wanter[2]] then
        is_told[wanter[2]] = true
        freed[#freed + 1] = wanter[2]
      end
    end
  end
end
if #freed > 0 then redis.call('PUBLISH', KEYS[4], cmsgpack.pack({ 'freed', me, freed })) end

if is_young then
  for _, drain in ipairs(request.known_drains) do
    redis.call('HSETNX', KEYS[2], drain[1], drain[2] == 0 and 0 or server_ms + drain[2])
  end
end
for _, drain in ipairs(request.drains) do
  if drain[2] < 0 then
    redis.call('HDEL', KEYS[2], drain[1])
  else
    redis.call('HSET', KEYS[2], drain[1], drain[2] == 0 and 0 or server_ms + drain[2])
  end
end
if #request.drains > 0 then redis.call('PUBLISH', KEYS[4], cmsgpack.pack({ 'drains', me })) end
local drains, drained = {}, redis.call('HGETALL', KEYS[2])
for i = 1, #drained, 2 do
  local until_ms = tonumber(drained[i + 1])
  if until_ms ~= 0 and until_ms <= server_ms then
    redis.call('HDEL', KEYS[2], drained[i])
  else
    drains[#drains + 1] = drained[i]
    drains[#drains + 1] = until_ms == 0 and -1 or until_ms - server_ms
  end
end
if #drains > 0 then redis.call('PEXPIRE', KEYS[2], request.drains_ttl_ms) end

-- Openings of circuits: told to all at once, and kept for who starts later.
for _, opening in ipairs(request.openings) do
  local backend, reason, for_ms, streak = unpack(opening)
  redis.call('HSET', KEYS[5], me .. '|' .. backend, (now_ms + for_ms) .. '|' .. streak .. '|' .. reason)
end
for _, backend in ipairs(request.closings) do redis.call('HDEL', KEYS[5], me .. '|' .. backend) end
if #request.openings + #request.closings > 0 then
  redis.call('PEXPIRE', KEYS[5], request.drains_ttl_ms)
  redis.call('PUBLISH', KEYS[4], cmsgpack.pack({ 'circuits', me, request.openings, request.closings }))
end
local openings = {}
if request.is_full then
  local kept = redis.call('HGETALL', KEYS[5])
  for i = 1, #kept, 2 do
    local name, backend = string.match(kept[i], '^([^|]*)|(.*)$')
    local until_ms, streak, reason = string.match(kept[i + 1], '^(%d+)|(%d+)|(.*)$')
    if not is_alive[name] and tonumber(until_ms) <= now_ms then
      redis.call('HDEL', KEYS[5], kept[i])
    elseif name ~= me then
      openings[#openings + 1] = { name, backend, reason, math.max(until_ms - now_ms, 0), tonumber(streak) }
    end
  end
end

local latencies
if request.latency then
  latencies = {}
  local told = {}
  local fields = redis.call('HGETALL', KEYS[3])
  for i = 1, #fields, 2 do told[fields[i]] = fields[i + 1] end
  for name in pairs(is_alive) do
    if name ~= me and told[name] and told['@' .. name] then
      latencies[#latencies + 1] = now_ms - tonumber(told['@' .. name])
      latencies[#latencies + 1] = told[name]
    end
  end
  redis.call('HSET', KEYS[3], me, request.latency, '@' .. me, now_ms)
  redis.call('PEXPIRE', KEYS[3], request.key_ttl_ms)
end
return cmsgpack.pack({ 'ok', divisor, born_ms, results, answers, drains, latencies or false, openings })
