"""`stoker up`: engines and the router in front of them, from one file or from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.cli.router import PodNamespace, PodPort, PodSelector, TracesEndpoint

if TYPE_CHECKING:
    from stoker.router.config import Config, EngineConfig, Traces
    from stoker.router.managed.supervisor import Managed

DEFAULT_FILE = Path("stoker.yaml")


def up(
    config: Annotated[
        Path | None,
        typer.Argument(help="What to start; stoker.yaml, or what suits this machine."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 for any.")] = None,
    policy: Annotated[str | None, typer.Option(help="How engines are chosen.")] = None,
    otlp_traces_endpoint: TracesEndpoint = None,
    k8s_selector: PodSelector = None,
    k8s_namespace: PodNamespace = None,
    k8s_port: PodPort = None,
    quiet: Annotated[bool, typer.Option(help="Keep engines' output in their logs only.")] = False,
) -> None:
    """Start engines, watch over them, and put one address in front.

    SIGHUP reads the file again: engines that are new in it are started, those that are gone or
    changed are stopped when they have answered what they have.
    """
    import uvloop

    from stoker.cli.router import given_settings, serve
    from stoker.router.configfile import load_config, parse_config
    from stoker.telemetry.logging import setup_logging

    given = given_settings(
        host, port, policy, otlp_traces_endpoint, k8s_selector, k8s_namespace, k8s_port
    )
    placed: list[EngineConfig] = []

    def load() -> tuple[Config, list[Managed]]:
        if config is None and not DEFAULT_FILE.exists():
            checked = parse_config(suited_to_this_machine(), source="(built in)", overrides=given)
        else:
            checked = load_config(config or DEFAULT_FILE, overrides=given)
        settled, managed = place(checked, placed)
        placed[:] = settled.engines
        return settled, managed

    first, managed = load()
    setup_logging()
    uvloop.run(serve(first, managed, load, show_logs=not quiet))


def suited_to_this_machine() -> str:
    """A configuration for a machine without one: vLLM where there is a GPU and a vLLM, our own
    engine otherwise; the default model."""
    import shutil

    gpu = Path("/dev/nvidia0").exists() and shutil.which("vllm") is not None
    engine = "{name: gpu, kind: vllm" if gpu else "{name: cpu, kind: native"
    model = "HuggingFaceTB/SmolLM2-135M-Instruct" if gpu else "smollm2"
    return f"engines:\n  - {engine}, model: {model}, models: [smollm2]}}\n"


def place(config: Config, running: Sequence[EngineConfig] = ()) -> tuple[Config, list[Managed]]:
    """Give every engine that is to be started a port and its command; those that are `running`
    as configured keep theirs.

    Raises `ConfigError` when an engine's program is not here, `ModelError` when its model cannot
    be had.
    """
    from stoker.router.managed.commands import HOST, free_port, served_name
    from stoker.router.managed.supervisor import Managed

    known = {engine.name: engine for engine in running}
    engines, managed = [], []
    for engine in config.engines:
        if engine.model is None:
            engines.append(engine)
            continue
        # What it will serve is known before it runs, so requests for it can wait.
        models = engine.models or {served_name(engine): served_name(engine)}
        old = known.get(engine.name)
        if old is not None and old == engine.model_copy(update={"url": old.url, "models": models}):
            engines.append(old)
            continue
        port = free_port()
        managed.append(Managed(engine, _command(engine, port, config.traces)))
        update = {"url": f"http://{HOST}:{port}", "models": models}
        engines.append(engine.model_copy(update=update))
    return config.model_copy(update={"engines": tuple(engines)}), managed


def _command(engine: EngineConfig, port: int, traces: Traces) -> list[str]:
    """How to start an engine; ours sends its traces where the router sends its own."""
    from stoker.router.managed.commands import command_for

    if engine.kind == "native" and traces.endpoint is not None:
        own = ("--otlp-traces-endpoint", traces.endpoint)
        engine = engine.model_copy(update={"args": (*own, *engine.args)})
    return command_for(engine, _loadable(engine), port)


def _loadable(engine: EngineConfig) -> str:
    """The model as the engine's program can load it: llama.cpp wants a file. A name that ours would
    refuse is refused here, before it is started time after time."""
    from stoker.errors import ModelNotFound
    from stoker.model.store import parse_name, resolve

    assert engine.model is not None
    if engine.kind == "llama_cpp":
        return str(resolve(engine.model))
    if engine.kind == "native" and engine.executable is None:
        try:
            parse_name(engine.model)
        except ModelNotFound as error:
            raise ModelNotFound(f"engine {engine.name}: {error}") from None
    return engine.model
