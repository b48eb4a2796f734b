"""The connection to Redis: quick to give up, and to come back."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from stoker.errors import ConfigError
from stoker.router.config import RedisSettings

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class RedisAway(Exception):
    """Redis did not answer in time."""


class RedisLink:
    """Runs scripts on Redis. Once it fails nobody waits for it until it answers again."""

    def __init__(self, settings: RedisSettings) -> None:
        """Raises `ConfigError` when the redis package is missing."""
        try:
            from redis import asyncio as client
        except ImportError as error:
            raise ConfigError(
                f"redis.url needs the redis package ({error}): pip install 'stoker[redis]'"
            ) from error
        self.prefix = settings.prefix
        self.up = False
        self.failures = 0
        """How often Redis went away."""
        self._timeout = settings.timeout
        self._redis: Any = client.Redis.from_url(
            settings.url,
            socket_timeout=settings.timeout,
            socket_connect_timeout=settings.timeout,
            retry=None,
        )

    async def script(self, text: str, keys: list[str], arguments: list[Any]) -> Any:
        """The result of a Lua script, run atomically. Raises `RedisAway`."""
        names = [f"{self.prefix}:{key}" for key in keys]
        try:
            async with asyncio.timeout(self._timeout):
                return await self._redis.eval(text, len(names), *names, *arguments)
        except Exception as error:
            self._failed(error)
            raise RedisAway from error

    async def watch(self) -> None:
        """Ask whether Redis is there, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_RETRY_S)

    async def look(self) -> None:
        """Ask once."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._redis.ping()
        except Exception as error:
            self._failed(error)
            return
        if not self.up:
            self.up = True
            log.info("Redis is there: limits, loads and sessions are shared with other routers")

    async def close(self) -> None:
        await self._redis.aclose()

    def _failed(self, error: Exception) -> None:
        if self.up or not self.failures:
            self.failures += 1
            reason = str(error) or type(error).__name__
            log.warning("Redis is away (%s): this router goes by what it knows itself", reason)
        self.up = False
