"""Asking a server again and again, and showing what it said."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.cli.endpoint import ApiKey
from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.client import ApiClient
    from stoker.client.vitals import Reading, Vitals

_WINDOW_S = 10.0
"""What rates and percentiles are of, at most: long enough for some requests to have ended."""


def top(
    url: Annotated[
        str | None,
        typer.Option(
            envvar="STOKER_URL",
            show_envvar=True,
            help="The server or router to watch; without it the one that runs here.",
        ),
    ] = None,
    api_key: ApiKey = None,
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.1, help="Seconds between two readings.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Show one reading, of one interval, and leave.")
    ] = False,
) -> None:
    """Watch a server or a router: requests, KV cache, tokens per second, latencies. Ctrl+C leaves.

    Shows vLLM and llama-server as well. Into a pipe it writes an object of JSON for each reading.
    """
    address = url or _the_one_here()
    with suppress(KeyboardInterrupt):
        if once or not sys.stdout.isatty():
            show = partial(_print_page, address) if sys.stdout.isatty() else _write_json
            asyncio.run(_watch(address, api_key, interval, show, once=once))
        else:
            _watch_live(address, api_key, interval)


async def _watch(
    url: str,
    api_key: str | None,
    interval: float,
    show: Callable[[Vitals, float], None],
    *,
    once: bool = False,
    away: Callable[[str], None] | None = None,
) -> None:
    """Show what the server says, for ever or `once`. When it is gone, `away` hears why.

    Raises `ServerUnreachable` or `ServerRefused` when it was never there, or there is no `away`.
    """
    from stoker.client import ApiClient

    seen = False
    async with ApiClient(url, api_key=api_key) as client:
        async for found in _readings(client, interval):
            if isinstance(found, StokerError):
                if away is None or not seen:
                    raise found
                away(str(found))
                continue
            seen = True
            show(found.figures, found.seconds)
            if once:
                return


def _the_one_here() -> str:
    """The address of the server that runs on this machine; of several, a router's."""
    from stoker.cli.running import servers

    found = servers()
    candidates = [server for server in found if server.kind == "router"] or found
    if not candidates:
        raise StokerError("no server is running here; name one with --url, or start: stoker serve")
    if len(candidates) > 1:
        listed = ", ".join(server.local_url for server in candidates)
        raise StokerError(f"several servers run here; name one with --url: {listed}")
    return candidates[0].local_url


@dataclass(frozen=True, slots=True)
class _Found:
    figures: Vitals
    seconds: float
    """What rates and percentiles are of."""


async def _readings(client: ApiClient, interval: float) -> AsyncIterator[_Found | StokerError]:
    """The figures after every interval, or why there are none."""
    from stoker.client import ServerRefused, ServerUnreachable
    from stoker.client.vitals import read, vitals

    kept: deque[Reading] = deque()
    while True:
        try:
            last = await read(client)
            if kept and last.is_of_another_process(kept[-1]):
                kept.clear()
            while len(kept) > 1 and last.metrics.at - kept[1].metrics.at >= _WINDOW_S:
                kept.popleft()
            first = kept[0] if kept else last
            figures = vitals(first, last)
            kept.append(last)
            if first is not last:
                yield _Found(figures, last.metrics.at - first.metrics.at)
        except (ServerUnreachable, ServerRefused) as error:
            kept.clear()
            yield error
        await asyncio.sleep(interval)


def _write_json(figures: Vitals, seconds: float) -> None:
    try:
        print(json.dumps({"seconds": round(seconds, 3), **asdict(figures)}), flush=True)
    except BrokenPipeError:
        # Whoever read has had enough. Nothing more may be written when Python ends.
        sys.stdout = None
        raise KeyboardInterrupt from None


def _print_page(url: str, figures: Vitals, seconds: float) -> None:
    from rich.console import Console

    from stoker.cli.top.view import page

    Console().print(page(url, figures, seconds))


def _watch_live(url: str, api_key: str | None, interval: float) -> None:
    """On the terminal's second screen: the first is as it was when this ends."""
    from rich.live import Live

    from stoker.cli.top.view import away, page

    with Live(screen=True, auto_refresh=False) as live:

        def show(figures: Vitals, seconds: float) -> None:
            live.update(page(url, figures, seconds), refresh=True)

        def gone(problem: str) -> None:
            live.update(away(url, problem), refresh=True)

        asyncio.run(_watch(url, api_key, interval, show, away=gone))
