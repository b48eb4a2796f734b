"""`stoker ps`: the servers that run here, or elsewhere, a line each."""

from __future__ import annotations

import asyncio
import json as json_format
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.cli.endpoint import ApiKey

if TYPE_CHECKING:
    from rich.table import Table

    from stoker.cli.running import Server
    from stoker.client import ApiClient

_WINDOW_S = 1.0
"""How long tokens are counted for."""
_WITHIN_S = 3.0
_STATES = {
    "model_loading": "loading",
    "load_failed": "failed",
    "shutting_down": "draining",
    "engine_stalled": "stalled",
    "engine_stopped": "stopped",
}
"""By the code of the error that `/health` answers with."""


@dataclass(frozen=True, slots=True)
class Row:
    """One server. None: it does not say."""

    models: tuple[str, ...]
    url: str
    kind: str | None
    pid: int | None
    uptime: float | None
    state: str
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    generation_tokens_per_s: float | None = None


def ps(
    url: Annotated[
        list[str] | None,
        typer.Option(help="Ask this server instead of those that run here; may be repeated."),
    ] = None,
    api_key: ApiKey = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the servers and routers that run on this machine: what they serve, and how busy they
    are. Tokens are counted for a second."""
    from stoker.cli import running

    rows = asyncio.run(_rows(url, running.servers() if url is None else [], api_key))
    if json:
        typer.echo(json_format.dumps([asdict(row) for row in rows], indent=2))
    elif rows:
        from stoker.cli.models import console

        console().print(table(rows))
    else:
        typer.echo("No server is running here. Try: stoker serve", err=True)


async def _rows(urls: list[str] | None, servers: list[Server], api_key: str | None) -> list[Row]:
    asked: list[tuple[str, Server | None]] = [(url, None) for url in urls or ()]
    asked += [(server.local_url, server) for server in servers]
    return list(await asyncio.gather(*(_row(url, server, api_key) for url, server in asked)))


async def _row(url: str, server: Server | None, api_key: str | None) -> Row:
    """Ask one server, twice."""
    from stoker.client import ApiClient, ServerRefused, ServerUnreachable
    from stoker.client.vitals import RouterVitals, read, vitals

    known = Row(
        models=server.models if server is not None else (),
        url=server.url if server is not None else url,
        kind=server.kind if server is not None else None,
        pid=server.pid if server is not None else None,
        uptime=max(0.0, time.time() - server.since) if server is not None else None,
        state="no answer",
    )
    async with ApiClient(url, api_key=api_key) as client:
        try:
            state = await _state(client)
        except ServerUnreachable:
            return known
        try:
            first = await read(client, within=_WITHIN_S)
            await asyncio.sleep(_WINDOW_S)
            last = await read(client, within=_WITHIN_S)
            figures = vitals(first, last)
        except (ServerUnreachable, ServerRefused):
            return replace(known, state=state)
    is_router = isinstance(figures, RouterVitals)
    return replace(
        known,
        state=state,
        kind="router" if is_router else "server",
        # A router's come and go with its engines; the names of a server may be more than the one
        # that labels its metrics.
        models=figures.models if is_router else known.models or figures.models,
        uptime=known.uptime if known.uptime is not None else figures.uptime,
        running=figures.running,
        waiting=figures.waiting,
        kv_usage=None if isinstance(figures, RouterVitals) else figures.kv_usage,
        generation_tokens_per_s=figures.generation_tokens_per_s,
    )


async def _state(client: ApiClient) -> str:
    """What `/health` says, in a word or two. Raises `ServerUnreachable`."""
    answer = await client.get("/health", within=_WITHIN_S)
    try:
        said = json_format.loads(answer.body)
    except ValueError:  # vLLM says nothing
        said = None
    if not isinstance(said, dict):
        said = {}
    if answer.status == 200:
        engines = said.get("engines") or {}
        healthy = sum(engine["healthy"] for engine in engines.values())
        if healthy < len(engines):
            return f"{healthy} of {len(engines)} engines"
        return str(said.get("status") or "ok")
    error = said.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return _STATES.get(str(code)) or f"status {answer.status}"


def table(rows: list[Row]) -> Table:
    """A line for each server."""
    from rich.table import Table

    from stoker.cli import units

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("MODEL", "ADDRESS"):
        table.add_column(name, overflow="fold")
    for name in ("KIND", "STATE"):
        table.add_column(name)
    for name in ("PID", "UP", "RUNNING", "WAITING", "KV USE", "TOKENS/S"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            ", ".join(row.models) or units.NOTHING,
            row.url,
            row.kind or units.NOTHING,
            row.state,
            units.NOTHING if row.pid is None else str(row.pid),
            units.duration(row.uptime),
            units.count(row.running),
            units.count(row.waiting),
            units.share(row.kv_usage),
            units.rate(row.generation_tokens_per_s),
        )
    return table
