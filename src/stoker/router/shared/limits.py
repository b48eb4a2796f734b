"""Limits per minute that hold over all routers together.

Redis keeps each key's window: a hash with what was taken in each of the last seconds of Redis'
clock. Requests that arrive while an earlier question is on its way are asked for together, so a
busy key costs a question a round trip, not one a request; and what is asked for is what is needed,
so nothing is set aside that another router could give out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stoker.router.ledger.account import Account
from stoker.router.ledger.window import SECONDS, Window
from stoker.router.shared.link import RedisAway, RedisLink

# KEYS: a key's hash. ARGV: limits of requests and tokens (0: none), then each request's tokens.
# Answers: the second, its microseconds, 1 or 0 for each request, and the hash as it was before.
_TAKE = """
local time = redis.call('TIME')
local second = tonumber(time[1])
local before = redis.call('HGETALL', KEYS[1])
local used = {r = 0, t = 0}
for i = 1, #before, 2 do
  if tonumber(string.sub(before[i], 2)) < second - 60 then
    redis.call('HDEL', KEYS[1], before[i])
  else
    local kind = string.sub(before[i], 1, 1)
    used[kind] = used[kind] + tonumber(before[i + 1])
  end
end
local limit_r, limit_t = tonumber(ARGV[1]), tonumber(ARGV[2])
local granted, taken_r, taken_t = {}, 0, 0
for i = 3, #ARGV do
  local tokens = tonumber(ARGV[i])
  local fits = (limit_r == 0 or used.r + taken_r + 1 <= limit_r)
    and (limit_t == 0 or used.t + taken_t + tokens <= limit_t)
  if fits then
    taken_r, taken_t = taken_r + 1, taken_t + tokens
  end
  granted[#granted + 1] = fits and 1 or 0
end
if taken_r > 0 then
  redis.call('HINCRBY', KEYS[1], 'r' .. second, taken_r)
  redis.call('HINCRBY', KEYS[1], 't' .. second, taken_t)
  redis.call('EXPIRE', KEYS[1], 62)
end
return {second, tonumber(time[2]), granted, redis.call('HGETALL', KEYS[1])}
"""

# KEYS: a key's hash. ARGV: a field and what to add to it, again and again.
_CORRECT = """
for i = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 0
"""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the routers together let through in the last minute, as Redis told."""

    granted: bool
    now: float
    """On Redis' clock, in seconds."""
    requests: Window | None
    tokens: Window | None


class SharedLimits:
    """Asks Redis for requests, and tells it what they really took."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._waiting: dict[Account, list[tuple[int, asyncio.Future[Shared]]]] = {}
        self._corrections: dict[str, dict[int, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def available(self) -> bool:
        return self._link.up

    async def take(self, account: Account, tokens: int) -> Shared:
        """Ask for one request of so many tokens. Raises `RedisAway`."""
        future: asyncio.Future[Shared] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(account)
        if waiting is not None:
            waiting.append((tokens, future))
        else:
            self._waiting[account] = [(tokens, future)]
            task = asyncio.get_running_loop().create_task(self._ask(account))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    def correct(self, account: Account, second: int, difference: int) -> None:
        """What was taken in a second of Redis' clock was so much more, or less."""
        seconds = self._corrections.setdefault(account.name, {})
        seconds[second] = seconds.get(second, 0) + difference

    async def flush(self) -> None:
        """Send corrections."""
        corrections, self._corrections = self._corrections, {}
        for name, seconds in corrections.items():
            arguments = [part for at, more in seconds.items() for part in (f"t{at}", more)]
            try:
                await self._link.script(_CORRECT, [f"limits:{name}"], arguments)
            except RedisAway:
                return  # what could not be told counts as it was set aside, for a minute

    async def _ask(self, account: Account) -> None:
        while self._waiting[account]:
            asked, self._waiting[account] = self._waiting[account], []
            try:
                answer = await self._question(account, [tokens for tokens, _ in asked])
            except RedisAway:
                asked += self._waiting.pop(account)
                for _, future in asked:
                    if not future.done():
                        future.set_exception(RedisAway())
                return
            for (_, future), shared in zip(asked, answer, strict=True):
                if not future.done():
                    future.set_result(shared)
        del self._waiting[account]

    async def _question(self, account: Account, asked: list[int]) -> list[Shared]:
        limits = account.limits
        arguments = [limits.requests_per_minute or 0, limits.tokens_per_minute or 0, *asked]
        reply = await self._link.script(_TAKE, [f"limits:{account.name}"], arguments)
        second, micros, granted, fields = reply
        slots = _slots(fields, second)
        now = second + micros / 1e6
        requests = _window(limits.requests_per_minute, slots["r"])
        tokens = _window(limits.tokens_per_minute, slots["t"])
        return [Shared(bool(one), now, requests, tokens) for one in granted]


def _slots(fields: list[bytes], second: int) -> dict[str, dict[int, int]]:
    slots: dict[str, dict[int, int]] = {"r": {}, "t": {}}
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        at = int(name[1:])
        if at >= second - SECONDS:
            slots[name[:1].decode()][at] = int(value)
    return slots


def _window(limit: int | None, slots: dict[int, int]) -> Window | None:
    return None if limit is None else Window(limit, slots)
