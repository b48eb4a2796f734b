"""`stoker bench serve`: load on any OpenAI-compatible server, and what came of it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stoker.cli.bench import options
from stoker.cli.progress import progress
from stoker.errors import InvalidRequest, ModelError, StokerError

if TYPE_CHECKING:
    from stoker.bench.dataset import SampleRequest
    from stoker.bench.load import LoadConfig, Outcome
    from stoker.client import ApiClient
    from stoker.model.tokenizer import Tokenizer

_SERVER = "Server"
_DATA = "Requests"
_LOAD = "Load"
_SAMPLING = "Sampling"
_RESULT = "Result"


def serve(
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", "--url", help="The server's address.", rich_help_panel=_SERVER),
    ] = None,
    host: Annotated[
        str, typer.Option(help="… or its host,", rich_help_panel=_SERVER)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="… and its port.", rich_help_panel=_SERVER)] = 8000,
    backend: Annotated[
        str,
        typer.Option(
            help="openai (completions; also called vllm) or openai-chat.", rich_help_panel=_SERVER
        ),
    ] = "openai",
    endpoint: Annotated[
        str | None,
        typer.Option(help="Path asked; default: the backend's.", rich_help_panel=_SERVER),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model asked for; default: the first that is served.", rich_help_panel=_SERVER
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Model whose tokenizer counts prompts; default: MODEL if it is on this machine, "
            "else prompts are counted in common words.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="OPENAI_API_KEY", help="Key sent.", show_envvar=True, rich_help_panel=_SERVER
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE sent with each request; may repeat.", rich_help_panel=_SERVER),
    ] = None,
    ready_check_timeout_sec: Annotated[
        float, typer.Option(help="Wait so long for the server to answer.", rich_help_panel=_SERVER)
    ] = 0.0,
    dataset_name: Annotated[
        str, typer.Option(help="random, sharegpt or custom (JSONL).", rich_help_panel=_DATA)
    ] = "random",
    dataset_path: Annotated[
        Path | None, typer.Option(help="File of sharegpt or custom.", rich_help_panel=_DATA)
    ] = None,
    num_prompts: Annotated[
        int, typer.Option(help="Requests to send.", min=1, rich_help_panel=_DATA)
    ] = 1000,
    input_len: Annotated[
        int | None, typer.Option(help="The dataset's input length.", rich_help_panel=_DATA)
    ] = None,
    output_len: Annotated[
        int | None, typer.Option(help="The dataset's output length.", rich_help_panel=_DATA)
    ] = None,
    random_input_len: Annotated[
        int, typer.Option(help="Tokens of a random prompt.", rich_help_panel=_DATA)
    ] = 1024,
    random_output_len: Annotated[
        int, typer.Option(help="Tokens of its answer.", rich_help_panel=_DATA)
    ] = 128,
    random_range_ratio: Annotated[
        float, typer.Option(help="Both vary by this share.", rich_help_panel=_DATA)
    ] = 0.0,
    random_prefix_len: Annotated[
        int, typer.Option(help="Tokens all random prompts begin with.", rich_help_panel=_DATA)
    ] = 0,
    sharegpt_output_len: Annotated[
        int | None,
        typer.Option(help="Instead of the conversation's own.", rich_help_panel=_DATA),
    ] = None,
    custom_output_len: Annotated[
        int | None,
        typer.Option(help="Instead of the line's output_tokens.", rich_help_panel=_DATA),
    ] = None,
    disable_shuffle: Annotated[
        bool, typer.Option("--disable-shuffle", help="As in the file.", rich_help_panel=_DATA)
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.", rich_help_panel=_DATA)] = 0,
    request_rate: Annotated[
        float, typer.Option(help="Requests per second; inf: all at once.", rich_help_panel=_LOAD)
    ] = math.inf,
    burstiness: Annotated[
        float,
        typer.Option(
            help="1: Poisson arrivals; less: in bursts; more: evenly.", rich_help_panel=_LOAD
        ),
    ] = 1.0,
    max_concurrency: Annotated[
        int | None, typer.Option(help="Most requests in flight.", min=1, rich_help_panel=_LOAD)
    ] = None,
    num_warmups: Annotated[
        int, typer.Option(help="Requests sent before, uncounted.", min=0, rich_help_panel=_LOAD)
    ] = 0,
    ignore_eos: Annotated[
        bool | None,
        typer.Option(
            help="Make every answer as long as asked; default: for random prompts.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    top_p: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    top_k: Annotated[int | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    min_p: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    frequency_penalty: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    presence_penalty: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    repetition_penalty: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    extra_body: Annotated[
        str | None, typer.Option(help="JSON added to every body.", rich_help_panel=_SAMPLING)
    ] = None,
    percentile_metrics: Annotated[
        str, typer.Option(help="Of ttft, tpot, itl, e2el.", rich_help_panel=_RESULT)
    ] = "ttft,tpot,itl,e2el",
    metric_percentiles: Annotated[
        str, typer.Option(help="As in 25,50,99.", rich_help_panel=_RESULT)
    ] = "99",
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            help="Limits in ms that a good request keeps: 'ttft:200 tpot:50 e2el:2000'.",
            rich_help_panel=_RESULT,
        ),
    ] = None,
    save_result: Annotated[
        bool, typer.Option("--save-result", help="Write JSON.", rich_help_panel=_RESULT)
    ] = False,
    save_detailed: Annotated[
        bool,
        typer.Option(
            "--save-detailed", help="… with every request's times.", rich_help_panel=_RESULT
        ),
    ] = False,
    result_dir: Annotated[Path, typer.Option(rich_help_panel=_RESULT)] = Path(),
    result_filename: Annotated[
        str | None, typer.Option(help="- for standard output.", rich_help_panel=_RESULT)
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE noted in the result; may repeat.", rich_help_panel=_RESULT),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Name noted in the result.", rich_help_panel=_RESULT)
    ] = None,
    disable_tqdm: Annotated[
        bool, typer.Option("--disable-tqdm", help="No progress bar.", rich_help_panel=_RESULT)
    ] = False,
) -> None:
    """Load an OpenAI-compatible server and report latencies and throughput.

    Options, figures and JSON are those of `vllm bench serve`. The exit status is 1 when no
    request succeeded.
    """
    from stoker.bench.dataset import DatasetConfig, RandomLengths
    from stoker.bench.load import ENDPOINTS, LoadConfig
    from stoker.bench.report import (
        make_report,
        parse_goodput,
        parse_metrics,
        parse_percentiles,
    )

    kind = next((k for k in ENDPOINTS if k == ("openai" if backend == "vllm" else backend)), None)
    if kind is None:
        raise InvalidRequest(f"--backend must be {', '.join(ENDPOINTS)}, got {backend!r}")
    if not request_rate > 0 or not burstiness > 0:
        raise InvalidRequest("--request-rate and --burstiness must be greater than 0")
    limits = parse_goodput(goodput or ())
    metrics = parse_metrics(percentile_metrics)
    percentiles = parse_percentiles(metric_percentiles)
    notes = _pairs("--metadata", metadata)
    headers = _pairs("--header", header)
    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
        "repetition_penalty": repetition_penalty,
    }
    body = {name: value for name, value in sampling.items() if value is not None}
    body |= _json_object("--extra-body", extra_body)
    own_length = {"sharegpt": sharegpt_output_len, "custom": custom_output_len}
    data = DatasetConfig(
        name=dataset_name,
        path=dataset_path,
        number=num_prompts,
        lengths=RandomLengths(
            random_input_len if input_len is None else input_len,
            random_output_len if output_len is None else output_len,
            random_range_ratio,
            random_prefix_len,
        ),
        output_len=output_len if output_len is not None else own_length.get(dataset_name),
        shuffle=not disable_shuffle,
        seed=seed,
    )

    async def run() -> tuple[LoadConfig, list[Outcome], float, str | None]:
        from stoker.bench.load import run_load
        from stoker.client import ApiClient

        async with ApiClient(
            base_url or f"http://{host}:{port}", api_key=api_key, headers=headers
        ) as client:
            chosen = model or await _served_model(client, ready_check_timeout_sec)
            counter, counter_name = _tokenizer(tokenizer, chosen)
            config = LoadConfig(
                model=chosen,
                backend=kind,
                endpoint=endpoint or ENDPOINTS[kind],
                request_rate=request_rate,
                burstiness=burstiness,
                max_concurrency=max_concurrency,
                ignore_eos=dataset_name == "random" if ignore_eos is None else ignore_eos,
                extra_body=body,
                seed=seed,
            )
            requests = data.requests(counter)
            await _warm_up(client, requests[:1] * num_warmups, config)
            with progress("Requests", len(requests), hidden=disable_tqdm) as advance:
                outcomes, duration = await run_load(
                    client, requests, config, on_done=lambda _: advance()
                )
            return config, outcomes, duration, counter_name

    import uvloop

    config, outcomes, duration, counter_name = uvloop.run(run())
    report = make_report(
        outcomes,
        duration,
        request_rate=request_rate,
        max_concurrency=max_concurrency,
        metrics=metrics,
        percentiles=percentiles,
        goodput=limits,
    )
    _name_failures(outcomes)
    result = {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "backend": backend,
        "label": label,
        "model_id": config.model,
        "tokenizer_id": counter_name,
        "num_prompts": num_prompts,
        **notes,
        "request_rate": "inf" if math.isinf(request_rate) else request_rate,
        "burstiness": burstiness,
        "max_concurrency": max_concurrency,
        **report.as_json(detailed=save_detailed),
    }
    if result_filename == "-":
        typer.echo(json.dumps(result, indent=2))
    else:
        typer.echo("\n".join(report.lines()))
        if save_result or save_detailed or result_filename:
            name = result_filename or _file_name(label or backend, config.model, request_rate)
            options.write_json(result_dir / name, result)
    if not report.completed:
        raise typer.Exit(1)


async def _served_model(client: ApiClient, patience: float) -> str:
    """The first model that the server lists; waits for the server for `patience` seconds."""
    from stoker.client import ServerRefused, ServerUnreachable

    deadline = time.monotonic() + patience
    while True:
        try:
            answer = (await client.get("/v1/models")).raise_for_status()
            break
        except (ServerUnreachable, ServerRefused) as error:
            waiting = not isinstance(error, ServerRefused) or error.status == 503
            if not waiting or time.monotonic() >= deadline:
                raise
        await asyncio.sleep(0.2)
    try:
        return str(answer.json()["data"][0]["id"])
    except (LookupError, TypeError):
        raise StokerError(f"{client.url} lists no model; give one with --model") from None


def _tokenizer(given: str | None, model: str) -> tuple[Tokenizer | None, str | None]:
    """What counts tokens here: the given model's tokenizer, or that of the model asked if it is
    on this machine."""
    from stoker.cli.models import local_path
    from stoker.model.tokenizer import Tokenizer

    if given is not None:
        return Tokenizer.load(local_path(given)), given
    try:
        return Tokenizer.load(local_path(model)), model
    except ModelError:
        return None, None


async def _warm_up(
    client: ApiClient, requests: Sequence[SampleRequest], config: LoadConfig
) -> None:
    """Send requests that are not counted. Raises `StokerError` if one fails."""
    from stoker.bench.load import run_load

    if not requests:
        return
    outcomes, _ = await run_load(client, requests, replace(config, request_rate=math.inf))
    for outcome in outcomes:
        if outcome.error is not None:
            raise StokerError(f"a warm-up request failed: {outcome.error}")


def _name_failures(outcomes: Sequence[Outcome]) -> None:
    """The kinds of failure and how many of each, most frequent first."""
    errors = Counter(outcome.error for outcome in outcomes if outcome.error is not None)
    for error, count in errors.most_common(10):
        typer.echo(f"stoker: {count} failed: {error}", err=True)


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InvalidRequest(f"{option} {text}: expected KEY=VALUE")
        pairs[name.strip()] = value.strip()
    return pairs


def _json_object(option: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{option} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{option} must be a JSON object, got {text}")
    return value


def _file_name(label: str, model: str, rate: float) -> str:
    """As `vllm bench serve` names its results."""
    base = model.rsplit("/", 1)[-1]
    return f"{label}-{rate}qps-{base}-{time.strftime('%Y%m%d-%H%M%S')}.json"
