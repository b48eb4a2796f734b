"""What other routers have at the engines, and where sessions went there.

Every moment each router tells Redis, in one question, what it has in flight at each engine and
which sessions it placed elsewhere than the ring has them; and hears the same of the others.
Nothing waits for it: choices are made by what was heard last. A router that says nothing for
`_SILENT_S` seconds is taken to be dead, and what it had with it. Moved sessions are a log that
everybody reads in the same order, so that everybody ends with the same map.

Routers know engines by their names, which must mean the same engine to all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from uuid import uuid4

import msgspec

from stoker.router.engines.handle import Elsewhere, EngineHandle
from stoker.router.policies.moves import LIFETIME_S, Moves
from stoker.router.shared.link import RedisAway, RedisLink

log = logging.getLogger(__name__)

_INTERVAL_S = 0.1
_SILENT_S = 3.0
_MOVES_A_TIME = 500
_BEGINNING = "0-0"

# KEYS: loads by router; the log of moves. ARGV: this router, its loads, seconds until a silent
# router is dead, where to read the log from, how long the log is kept; then its moves.
# Answers: the time in milliseconds, the others' loads, and the log.
_EXCHANGE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], 60)
local all, others = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  if all[i] ~= ARGV[1] then
    local space = string.find(all[i + 1], ' ', 1, true)
    if tonumber(string.sub(all[i + 1], 1, space)) < now - ARGV[3] * 1000 then
      redis.call('HDEL', KEYS[1], all[i])
    else
      others[#others + 1] = string.sub(all[i + 1], space + 1)
    end
  end
end
for i = 6, #ARGV, 2 do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 's', ARGV[i], 'e', ARGV[i + 1])
end
if #ARGV > 5 then
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
return {now, others, redis.call('XRANGE', KEYS[2], ARGV[4], '+', 'COUNT', 1000)}
"""

_LEAVE = "return redis.call('HDEL', KEYS[1], ARGV[1])"

Loads = dict[str, tuple[int, int, int]]
"""By engine: requests in flight, their prompt tokens, their output tokens."""

_decode = msgspec.json.Decoder(Loads).decode


def _read_loads(text: bytes) -> Loads:
    """None of a router that says it otherwise: another version of this."""
    try:
        return _decode(text)
    except msgspec.MsgspecError:
        return {}


class SharedFleet:
    """Tells and hears, until cancelled."""

    def __init__(
        self,
        link: RedisLink,
        engines: Callable[[], Mapping[str, EngineHandle]],
        heard: Callable[[], None],
    ) -> None:
        """`engines` are this router's; `heard` is called after their `elsewhere` changed."""
        self.moves = Moves(asyncio.get_running_loop().time)
        self.routers = 1
        """How many there are, this one included."""
        self._link = link
        self._engines = engines
        self._heard = heard
        self._name = uuid4().hex
        self._next = _BEGINNING

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            try:
                await self.exchange()
            except Exception:
                log.exception("what other routers told cannot be used")
            await asyncio.sleep(_INTERVAL_S)

    async def exchange(self) -> None:
        """Tell and hear once."""
        moves = self.moves.take_untold(_MOVES_A_TIME)
        loads = {
            name: (one.in_flight, one.prompt_tokens_in_flight, one.output_tokens_in_flight)
            for name, one in self._engines().items()
            if one.in_flight
        }
        arguments = [self._name, msgspec.json.encode(loads), _SILENT_S, self._next]
        arguments += [round(LIFETIME_S), *(part for move in moves for part in move)]
        try:
            if not self._link.up:
                raise RedisAway
            now, others, entries = await self._link.script(_EXCHANGE, ["loads", "moves"], arguments)
        except RedisAway:
            self.moves.not_told(moves)
            self._next = _BEGINNING  # what was there may be there no more
            others, entries = [], []
        else:
            for entry, fields in entries:
                self._read(entry, fields, now)
        self._set([_read_loads(one) for one in others])

    async def leave(self) -> None:
        """This router has nothing more at any engine."""
        if self._link.up:
            try:
                await self._link.script(_LEAVE, ["loads"], [self._name])
            except RedisAway:
                return  # they will find out

    def _read(self, entry: bytes, fields: list[bytes], now: int) -> None:
        milliseconds, number = entry.decode().split("-")
        self._next = f"{milliseconds}-{int(number) + 1}"
        age = max(0.0, (now - int(milliseconds)) / 1000)
        self.moves.heard(int(fields[1]), fields[3].decode(), age)

    def _set(self, others: list[Loads]) -> None:
        self.routers = len(others) + 1
        for name, engine in self._engines().items():
            loads = [one[name] for one in others if name in one]
            engine.hear(
                Elsewhere(
                    self.routers,
                    sum(load[0] for load in loads),
                    sum(load[1] for load in loads),
                    sum(load[2] for load in loads),
                )
            )
        self._heard()
