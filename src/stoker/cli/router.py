"""`stoker router`: the router alone, in front of engines that run elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.router.config import Config
    from stoker.router.managed.supervisor import Managed, Supervisor
    from stoker.router.server import RouterServer

log = logging.getLogger(__name__)

Loader = Callable[[], "tuple[Config, list[Managed]]"]
"""Reads the configuration anew: all of it, and the engines that are to be started here."""

TracesEndpoint = Annotated[
    str | None,
    typer.Option(
        help="Send OpenTelemetry traces to this collector: http://HOST:4318/v1/traces. Needs "
        "stoker\\[otel]."
    ),
]


PodSelector = Annotated[
    str | None, typer.Option(help="Labels of the pods that are engines, such as app=vllm.")
]
PodNamespace = Annotated[
    str | None, typer.Option(help="Their namespace; this pod's, or the kubeconfig context's.")
]
PodPort = Annotated[
    int | None, typer.Option(help="Their port; the container port named http, or the only one.")
]


def router(
    config: Annotated[
        Path, typer.Argument(help="What to serve and how; stoker.example.yaml shows every field.")
    ] = Path("stoker.yaml"),
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 for any.")] = None,
    policy: Annotated[str | None, typer.Option(help="How engines are chosen.")] = None,
    otlp_traces_endpoint: TracesEndpoint = None,
    k8s_selector: PodSelector = None,
    k8s_namespace: PodNamespace = None,
    k8s_port: PodPort = None,
) -> None:
    """Put one address in front of many engines. SIGHUP reads the file again.

    With --k8s-selector there need be no file: engines are the pods that match.
    """
    import uvloop

    from stoker.router.configfile import load_config, parse_config
    from stoker.telemetry.logging import setup_logging

    given = given_settings(
        host, port, policy, otlp_traces_endpoint, k8s_selector, k8s_namespace, k8s_port
    )

    def load() -> tuple[Config, list[Managed]]:
        if k8s_selector is not None and not config.exists():
            return parse_config("{}", source="(no file)", overrides=given), []
        return load_config(config, overrides=given), []

    checked, _ = load()
    setup_logging()
    uvloop.run(serve(checked, [], load))


def given_settings(
    host: str | None,
    port: int | None,
    policy: str | None,
    traces: str | None,
    k8s_selector: str | None,
    k8s_namespace: str | None,
    k8s_port: int | None,
) -> dict[str, object]:
    """What the command line says, by its place in the configuration."""
    settings = {
        "router.host": host,
        "router.port": port,
        "router.policy": policy,
        "traces.endpoint": traces,
        "kubernetes.selector": k8s_selector,
        "kubernetes.namespace": k8s_namespace,
        "kubernetes.engine.port": k8s_port,
    }
    return {place: value for place, value in settings.items() if value is not None}


async def serve(
    config: Config, managed: list[Managed], load: Loader, *, show_logs: bool = True
) -> None:
    """Run the router, and the engines it manages, until SIGINT or SIGTERM; then drain. A second
    signal stops at once. SIGHUP reloads."""
    import signal

    from stoker.cli.running import announced
    from stoker.listen import bind
    from stoker.router import process
    from stoker.router.managed.supervisor import Supervisor
    from stoker.router.server import RouterServer

    process.prepare()
    listener = bind(config.router.host, config.router.port)
    server = RouterServer(config)
    exited = server.dispatcher.engine_exited
    supervisor = Supervisor(config.supervision, exited, show_logs=show_logs)
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    supervisor.start(managed)
    try:
        server.manage(supervisor.names(), supervisor.restart, supervisor.memory)
        await server.start(listener)
        process.started()
        typer.echo(_banner(server))
        with announced("router", server.url, tuple(server.dispatcher.fleet.names())):
            reloading = asyncio.create_task(_reload(server, supervisor, reload, load))
            await stop.wait()
            reloading.cancel()
            await _drain(server, stop)
    finally:
        await supervisor.stop()


async def _reload(
    server: RouterServer, supervisor: Supervisor, asked: asyncio.Event, load: Loader
) -> None:
    """At every signal, go on with the configuration as it is then; a wrong one changes nothing."""
    leaving: set[asyncio.Task[None]] = set()
    while True:
        await asked.wait()
        asked.clear()
        try:
            config, managed = await asyncio.to_thread(load)
        except StokerError as error:
            log.error("the configuration was not reloaded: %s", error)
            continue
        gone = await server.reload(config)
        for engine in gone:
            if engine.name in supervisor.names():
                end = supervisor.release(engine.name)
                emptied = server.dispatcher.emptied(engine)
                task = asyncio.create_task(_end_after(emptied, end, config.router.drain))
                leaving.add(task)
                task.add_done_callback(leaving.discard)
        supervisor.start(one for one in managed if one.config.name not in supervisor.names())
        server.manage(supervisor.names(), supervisor.restart, supervisor.memory)
        log.info("the configuration was reloaded")


async def _end_after(
    emptied: Awaitable[None], end: Callable[[], Awaitable[None]], seconds: float
) -> None:
    """End an engine's process when its last request is answered, or has taken too long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(emptied, seconds)
    await end()


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
