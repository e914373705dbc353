"""What a server decides by itself, in one step: which of two rows is newer, and how far a view is written."""

from __future__ import annotations

import hashlib

from featurechaos_redis.wire import command

_KEEP_NEWEST = b"""
-- KEYS: rows. ARGV: milliseconds to keep them or 0, then a blob for each row. Gives how many were older.
-- An event time is a signed 64-bit integer, bytes 17 to 24, low byte first. A Lua number is a double and
-- would round it past 2^53, so it is compared in halves: the high one signed, the low one not.
local function halves(row)
  local a, b, c, d, e, f, g, h = string.byte(row, 17, 24)
  local high = e + f * 256 + g * 65536 + h * 16777216
  if high >= 2147483648 then high = high - 4294967296 end
  return high, a + b * 256 + c * 65536 + d * 16777216
end
local older = 0
for i, key in ipairs(KEYS) do
  local row = ARGV[i + 1]
  local stored = redis.pcall('GETRANGE', key, 0, 23)
  local newer = false
  -- Anything that is not a row of ours (another type, too short, no magic) is replaced.
  if type(stored) == 'string' and #stored == 24 and string.sub(stored, 1, 2) == '\\001\\252' then
    local high, low = halves(stored)
    local new_high, new_low = halves(row)
    newer = high > new_high or (high == new_high and low > new_low)
  end
  if newer then
    older = older + 1
  elseif ARGV[1] == '0' then
    redis.call('SET', key, row)
  else
    redis.call('SET', key, row, 'PX', ARGV[1])
  end
end
return older
"""

_RAISE_WATERMARK = b"""
-- KEYS: a watermark, "<newest event time> <written at>" in microseconds. ARGV: the two numbers now.
-- Each only grows. Compared in decimal halves, exact where a double would round.
local function halves(text)
  local sign, digits = string.match(text, '^(-?)(%d+)$')
  local high, low = tonumber(string.sub(digits, 1, -10)) or 0, tonumber(string.sub(digits, -9))
  if sign == '-' then return -high, -low end
  return high, low
end
local function later(one, other)
  local high, low = halves(one)
  local other_high, other_low = halves(other)
  if high > other_high or (high == other_high and low > other_low) then return one end
  return other
end
local event, written = ARGV[1], ARGV[2]
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'string' then
  local stored_event, stored_written = string.match(stored, '^(-?%d+) (-?%d+)$')
  if stored_event then
    event, written = later(event, stored_event), later(written, stored_written)
  end
end
redis.call('SET', KEYS[1], event .. ' ' .. written)
return 1
"""


class Script:
    """A Lua script, called by its hash, and by its text where the server has not met it."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._hash = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()

    def by_hash(self, keys: list[bytes], arguments: list[bytes]) -> bytes:
        return command(b"EVALSHA", self._hash, b"%d" % len(keys), *keys, *arguments)

    def by_text(self, keys: list[bytes], arguments: list[bytes]) -> bytes:
        return command(b"EVAL", self._text, b"%d" % len(keys), *keys, *arguments)


KEEP_NEWEST = Script(_KEEP_NEWEST)
RAISE_WATERMARK = Script(_RAISE_WATERMARK)
