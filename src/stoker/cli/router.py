"""`stoker router`: the router alone, in front of engines that run elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stoker.router.config import Config
    from stoker.router.managed.supervisor import Managed
    from stoker.router.server import RouterServer


def router(
    config: Annotated[
        Path, typer.Argument(help="What to serve and how; stoker.example.yaml shows every field.")
    ] = Path("stoker.yaml"),
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 for any.")] = None,
    policy: Annotated[str | None, typer.Option(help="How engines are chosen.")] = None,
) -> None:
    """Put one address in front of many engines."""
    import uvloop

    from stoker.router.config import load_config
    from stoker.telemetry.logging import setup_logging

    settings = {"host": host, "port": port, "policy": policy}
    given = {f"router.{name}": value for name, value in settings.items() if value is not None}
    checked = load_config(config, overrides=given)
    setup_logging()
    uvloop.run(serve(checked))


async def serve(config: Config, managed: Sequence[Managed] = (), *, show_logs: bool = True) -> None:
    """Run the router, and the engines it manages, until SIGINT or SIGTERM; then drain. A second
    signal stops at once."""
    import signal

    from stoker.router.managed.supervisor import Supervisor
    from stoker.router.server import RouterServer

    server = RouterServer(config)
    supervisor = Supervisor(
        managed, config.supervision, server.dispatcher.engine_exited, show_logs=show_logs
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor.start()
    try:
        server.manage([one.config.name for one in managed], supervisor.restart)
        await server.start()
        typer.echo(_banner(server))
        await stop.wait()
        await _drain(server, stop)
    finally:
        await supervisor.stop()


async def _drain(server: RouterServer, again: asyncio.Event) -> None:
    again.clear()
    typer.echo("stopping; requests under way may finish (again to stop at once)", err=True)
    stopping = asyncio.create_task(server.stop())
    second = asyncio.create_task(again.wait())
    await asyncio.wait((stopping, second), return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    stopping.cancel()


def _banner(server: RouterServer) -> str:
    lines = [f"Stoker router on {server.url}/v1", *(f"  {line}" for line in server.describe())]
    return "\n".join(lines)
