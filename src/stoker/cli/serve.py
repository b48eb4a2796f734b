"""`stoker serve`: a model behind the OpenAI API."""

from __future__ import annotations

import json
import shlex
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.errors import InvalidRequest, why

if TYPE_CHECKING:
    from stoker.engine.config import EngineConfig
    from stoker.server.state import ServedEncoder, ServedModel
    from stoker.telemetry.kv_events.publisher import KVEventPublisher

_ENGINE = "Engine"
_ACCESS = "Access"
_BEHAVIOUR = "Behaviour"


def serve(
    model: Annotated[
        str, typer.Argument(help="smollm2, minilm, hf:org/repo, hf:org/repo:file.gguf, or a path.")
    ] = "smollm2",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(help="Name that requests may give; may be repeated. Default: MODEL."),
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="File with a Jinja chat template, for the model's own.")
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(help="Longest prompt plus answer, in tokens.", rich_help_panel=_ENGINE),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(help="Sequences running at the same time.", rich_help_panel=_ENGINE),
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="Tokens computed in one step.", rich_help_panel=_ENGINE)
    ] = None,
    long_prefill_token_threshold: Annotated[
        int | None,
        typer.Option(help="Most tokens of one prompt in a step.", rich_help_panel=_ENGINE),
    ] = None,
    kv_cache_memory_bytes: Annotated[
        int | None,
        typer.Option(help="Memory for keys and values.", rich_help_panel=_ENGINE),
    ] = None,
    kv_cache_dtype: Annotated[
        str | None,
        typer.Option(help="auto, bfloat16, float32 or int8.", rich_help_panel=_ENGINE),
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Tokens per cache block.", rich_help_panel=_ENGINE)
    ] = None,
    weight_format: Annotated[
        str | None,
        typer.Option(
            "--weight-format",
            "--quantization",
            help="auto (as the file has them), q4, q8 or bf16.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads; default: the cores available.", rich_help_panel=_ENGINE),
    ] = None,
    isa: Annotated[
        str | None,
        typer.Option(help="Instruction set; default: the best there is.", rich_help_panel=_ENGINE),
    ] = None,
    enable_prefix_caching: Annotated[
        bool,
        typer.Option(
            "--enable-prefix-caching/--no-enable-prefix-caching",
            help="Reuse what prompts have in common.",
            rich_help_panel=_ENGINE,
        ),
    ] = True,
    scheduling_policy: Annotated[
        str | None,
        typer.Option(help="fcfs, or priority: by the request's.", rich_help_panel=_ENGINE),
    ] = None,
    max_logprobs: Annotated[
        int | None,
        typer.Option(help="Most log-probabilities per token.", rich_help_panel=_ENGINE),
    ] = None,
    max_waiting_requests: Annotated[
        int | None,
        typer.Option(
            help="Requests waiting before new ones get a 429; 0: no limit.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    max_waiting_tokens: Annotated[
        int | None,
        typer.Option(
            help="Prompt tokens waiting before new requests get a 429; 0: no limit.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seeds requests that bring none.", rich_help_panel=_ENGINE),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="STOKER_API_KEY",
            help="A key that clients must send; may be repeated.",
            show_envvar=True,
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with a key a line, read again when it changes.", rich_help_panel=_ACCESS
        ),
    ] = None,
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin whose pages may ask (CORS), or *; may be repeated.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    max_body_bytes: Annotated[
        int, typer.Option(help="Largest request body.", rich_help_panel=_ACCESS)
    ] = 32 * 2**20,
    request_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds a request may take in all.", rich_help_panel=_BEHAVIOUR),
    ] = None,
    write_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds until a client is cut off that reads nothing.",
            rich_help_panel=_BEHAVIOUR,
        ),
    ] = 60.0,
    drain_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds that requests may go on after SIGTERM.", rich_help_panel=_BEHAVIOUR
        ),
    ] = 30.0,
    stall_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds without a step, with work to do, until /health says 503.",
            rich_help_panel=_BEHAVIOUR,
        ),
    ] = 60.0,
    tool_call_parser: Annotated[
        str | None,
        typer.Option(
            help="How the model writes tool calls: hermes, mistral, mistral_args, llama3_json or "
            "json; default: as its chat template shows.",
            rich_help_panel=_BEHAVIOUR,
        ),
    ] = None,
    reasoning_parser: Annotated[
        str | None,
        typer.Option(
            help="How it marks reasoning: think, think_brackets or none; default: as its chat "
            "template shows.",
            rich_help_panel=_BEHAVIOUR,
        ),
    ] = None,
    sampling_mode: Annotated[
        str | None,
        typer.Option(
            help="Preset for requests that choose none: creative, balanced, precise or "
            "deterministic.",
            rich_help_panel=_BEHAVIOUR,
        ),
    ] = None,
    enable_force_include_usage: Annotated[
        bool,
        typer.Option(
            "--enable-force-include-usage",
            help="Count tokens at the end of every stream.",
            rich_help_panel=_BEHAVIOUR,
        ),
    ] = False,
    kv_events_config: Annotated[
        str | None,
        typer.Option(
            help="JSON: where to publish what the prefix cache holds, with vLLM's fields.",
            rich_help_panel=_BEHAVIOUR,
        ),
    ] = None,
    otlp_traces_endpoint: Annotated[
        str | None,
        typer.Option(
            help="Send OpenTelemetry traces to this collector: http://HOST:4318/v1/traces. Needs "
            "stoker\\[otel].",
            rich_help_panel=_BEHAVIOUR,
        ),
    ] = None,
    log_requests: Annotated[
        bool,
        typer.Option("--log-requests", help="A line a request.", rich_help_panel=_BEHAVIOUR),
    ] = False,
    log_json: Annotated[
        bool,
        typer.Option("--log-json", help="Log lines as JSON.", rich_help_panel=_BEHAVIOUR),
    ] = False,
) -> None:
    """Serve a model behind the OpenAI API until Ctrl+C."""
    began = time.perf_counter()
    from stoker.cli.running import announced
    from stoker.engine.config import EngineConfig
    from stoker.listen import bind
    from stoker.server.config import ServerConfig
    from stoker.server.keys import KeyRing
    from stoker.telemetry.logging import setup_logging
    from stoker.telemetry.tracing.export import open_tracing

    setup_logging(as_json=log_json)
    _check_isa(isa)
    settings: dict[str, object] = {
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "long_prefill_token_threshold": long_prefill_token_threshold,
        "scheduling_policy": scheduling_policy,
        "enable_prefix_caching": enable_prefix_caching,
        "block_size": block_size,
        "kv_cache_dtype": kv_cache_dtype,
        "kv_cache_memory_bytes": kv_cache_memory_bytes,
        "max_logprobs": max_logprobs,
        "max_waiting_requests": max_waiting_requests,
        "max_waiting_tokens": max_waiting_tokens,
        "weight_format": weight_format,
        "threads": threads,
        "isa": isa,
        "seed": seed,
    }
    engine_config = EngineConfig.from_mapping(
        {name: value for name, value in settings.items() if value is not None}
    )
    names = tuple(served_model_name or [model.removeprefix("hf:")])
    server_config = ServerConfig(
        served_names=names,
        cors_origins=tuple(allowed_origins or ()),
        max_body_bytes=max_body_bytes,
        request_timeout=request_timeout,
        stall_timeout=stall_timeout,
        write_timeout=write_timeout,
        tool_call_parser=tool_call_parser,
        reasoning_parser=reasoning_parser,
        sampling_mode=sampling_mode,
        force_include_usage=enable_force_include_usage,
        log_requests=log_requests,
    )
    keys = KeyRing(api_key or (), api_key_file)
    template = _read_template(chat_template)
    tracing = open_tracing(otlp_traces_endpoint, service="stoker")
    listener = bind(host, port)
    kv_events = _publisher(kv_events_config, engine_config)

    from stoker.model.store import resolve

    path = str(resolve(model))
    if kv_events is not None:
        _refuse_encoder(Path(path), model)

    # The model loads in a thread, in native code for the most part, while this one imports the
    # server.

    loading: Future[ServedModel | ServedEncoder] = Future()

    def load() -> None:
        from stoker.server.load import load_model

        try:
            loading.set_result(
                load_model(
                    path,
                    engine_config,
                    served_name=names[0],
                    chat_template=template,
                    kv_listener=None if kv_events is None else kv_events.publish,
                    tracing=tracing,
                )
            )
        except BaseException as error:
            loading.set_exception(error)

    threading.Thread(target=load, name="stoker-load", daemon=True).start()

    from stoker.server.app import create_app
    from stoker.server.run import serve as run

    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    try:
        with announced("server", url, names):
            run(
                create_app(server_config, keys, loading.result),
                listener,
                drain_timeout=drain_timeout,
                on_ready=lambda: _greet(loading.result(), names[0], url, keys.required, began),
            )
    finally:
        if kv_events is not None:
            kv_events.close()
        if tracing is not None:
            tracing.close()


def _check_isa(isa: str | None) -> None:
    if isa is None:
        return
    from stoker import _kernels

    here = _kernels.available_isas()
    if isa not in here:
        raise InvalidRequest(
            f"--isa must be one of {', '.join(here)} here, got {isa!r}", param="isa"
        )


def _publisher(settings: str | None, engine: EngineConfig) -> KVEventPublisher | None:
    if settings is None:
        return None
    from stoker.telemetry.kv_events.config import read_config

    config = read_config(settings)
    if not config.publishes:
        return None
    if not engine.enable_prefix_caching:
        raise InvalidRequest(
            "--kv-events-config publishes what the prefix cache holds, and "
            "--no-enable-prefix-caching turns it off: leave one of them out",
            param="kv_events_config",
        )
    from stoker.telemetry.kv_events.publisher import KVEventPublisher

    return KVEventPublisher(config)


def _refuse_encoder(path: Path, model: str) -> None:
    from stoker.model.bert import is_bert

    if is_bert(path):
        raise InvalidRequest(
            "--kv-events-config publishes what the prefix cache holds, and an encoder such as "
            f"{model} has none: leave it out",
            param="kv_events_config",
        )


def _read_template(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"--chat-template {file} cannot be read: {why(error)}", param="chat_template"
        ) from None


def _greet(
    model: ServedModel | ServedEncoder, name: str, url: str, keyed: bool, began: float
) -> None:
    """What a person at the terminal wants to know next."""
    from stoker.cli.running import from_here

    here = from_here(url)
    text = "What is the capital of France?"
    if hasattr(model, "encoder"):
        path, body = "embeddings", json.dumps({"model": name, "input": text})
    else:
        question = [{"role": "user", "content": text}]
        path, body = "chat/completions", json.dumps({"model": name, "messages": question})
    key = " -H 'Authorization: Bearer KEY'" if keyed else ""
    typer.echo(
        f"\n{name} is served on {url}, ready in {time.perf_counter() - began:.1f} s. Try:\n\n"
        f"  curl {here}/v1/{path}{key} -H 'Content-Type: application/json' \\\n"
        f"    -d {shlex.quote(body)}\n\n"
        f"or any OpenAI client with base_url {here}/v1. Ctrl+C stops.\n",
        err=True,
    )
