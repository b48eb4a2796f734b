"""`stoker bench throughput`: all requests at once, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stoker.cli.bench import options
from stoker.errors import InvalidRequest

_DATA = "Requests"


def throughput(
    model: options.Model = "smollm2",
    dataset_name: Annotated[
        str, typer.Option(help="random, sharegpt or custom (JSONL).", rich_help_panel=_DATA)
    ] = "random",
    dataset_path: Annotated[
        Path | None, typer.Option(help="File of sharegpt or custom.", rich_help_panel=_DATA)
    ] = None,
    input_len: Annotated[
        int, typer.Option(help="Tokens of a random prompt.", rich_help_panel=_DATA)
    ] = 128,
    output_len: Annotated[
        int | None,
        typer.Option(
            help="Tokens of each answer; default: 128, or as a file says.", rich_help_panel=_DATA
        ),
    ] = None,
    random_range_ratio: Annotated[
        float, typer.Option(help="Both vary by this share.", rich_help_panel=_DATA)
    ] = 0.0,
    prefix_len: Annotated[
        int, typer.Option(help="Tokens all random prompts begin with.", rich_help_panel=_DATA)
    ] = 0,
    num_prompts: Annotated[int, typer.Option(help="Requests.", min=1, rich_help_panel=_DATA)] = 100,
    num_warmups: Annotated[
        int, typer.Option(help="Requests before, uncounted.", min=0, rich_help_panel=_DATA)
    ] = 0,
    n: Annotated[int, typer.Option(help="Answers to each.", min=1, rich_help_panel=_DATA)] = 1,
    disable_shuffle: Annotated[
        bool, typer.Option("--disable-shuffle", help="As in the file.", rich_help_panel=_DATA)
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.", rich_help_panel=_DATA)] = 0,
    output_json: options.OutputJson = None,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    kv_cache_dtype: options.KVCacheDtype = None,
    weight_format: options.WeightFormat = None,
    threads: options.Threads = None,
    isa: options.Isa = None,
    enable_prefix_caching: Annotated[bool, typer.Option(rich_help_panel="Engine")] = True,
) -> None:
    """Give the engine all requests at once and report tokens per second, and how a step's time is
    split between kernels and Python. Options and fields are those of `vllm bench throughput`."""
    from stoker.bench.dataset import DatasetConfig, RandomLengths
    from stoker.bench.offline import measure_throughput
    from stoker.engine.factory import build_engine

    data = DatasetConfig(
        name=dataset_name,
        path=dataset_path,
        number=num_prompts,
        lengths=RandomLengths(
            input_len, 128 if output_len is None else output_len, random_range_ratio, prefix_len
        ),
        output_len=output_len,
        shuffle=not disable_shuffle,
        seed=seed,
    )
    if num_warmups > num_prompts:
        raise InvalidRequest("--num-warmups takes of the prompts; give no more than --num-prompts")
    config = options.engine_config(
        {
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "kv_cache_dtype": kv_cache_dtype,
            "weight_format": weight_format,
            "threads": threads,
            "isa": isa,
            "enable_prefix_caching": enable_prefix_caching,
        }
    )
    engine = build_engine(model, config).engine
    requests = data.requests(engine.tokenizer)
    result = measure_throughput(engine, requests, n=n, num_warmups=num_warmups)
    typer.echo("\n".join(result.lines()))
    options.write_json(output_json, {"model_id": model, **result.as_json()})
