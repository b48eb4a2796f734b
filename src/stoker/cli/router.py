"""`stoker router`: the router alone, in front of engines that run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stoker.router.config import Config

ConfigFile = Annotated[
    Path, typer.Argument(help="What to serve and how; stoker.example.yaml shows every field.")
]


def router(
    config: ConfigFile = Path("stoker.yaml"),
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
    uvloop.run(_serve(checked))


async def _serve(config: Config) -> None:
    """Run until SIGINT or SIGTERM; then drain. A second signal stops at once."""
    import asyncio
    import signal

    from stoker.router.server import RouterServer

    server = RouterServer(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    typer.echo(_banner(server.describe(), config.router.host, server.port))
    await stop.wait()
    stop.clear()
    typer.echo("stopping; requests under way may finish (again to stop at once)", err=True)
    stopping = asyncio.create_task(server.stop())
    again = asyncio.create_task(stop.wait())
    await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    stopping.cancel()


def _banner(engines: list[str], host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"
    lines = [f"Stoker router on {address}/v1", *(f"  {line}" for line in engines)]
    return "\n".join(lines)
