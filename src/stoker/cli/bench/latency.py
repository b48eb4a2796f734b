"""`stoker bench latency`: one batch, time after time, no server."""

from __future__ import annotations

from typing import Annotated

import typer

from stoker.cli.bench import options
from stoker.cli.progress import progress


def latency(
    model: options.Model = "smollm2",
    input_len: Annotated[int, typer.Option(help="Tokens of each prompt.", min=1)] = 32,
    output_len: Annotated[int, typer.Option(help="Tokens of each answer.", min=1)] = 128,
    batch_size: Annotated[int, typer.Option(help="Prompts at once.", min=1)] = 8,
    n: Annotated[int, typer.Option(help="Answers to each.", min=1)] = 1,
    use_beam_search: Annotated[
        bool, typer.Option("--use-beam-search", help="The best N of a beam search.")
    ] = False,
    num_iters_warmup: Annotated[int, typer.Option(help="Batches before, uncounted.", min=0)] = 3,
    num_iters: Annotated[int, typer.Option(help="Batches timed.", min=1)] = 10,
    output_json: options.OutputJson = None,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    kv_cache_dtype: options.KVCacheDtype = None,
    weight_format: options.WeightFormat = None,
    threads: options.Threads = None,
    isa: options.Isa = None,
    enable_prefix_caching: Annotated[bool, typer.Option(rich_help_panel="Engine")] = False,
) -> None:
    """Time one batch of requests, and show how a step's time is split between kernels and Python.
    Options and fields are those of `vllm bench latency`."""
    from stoker.bench.offline import measure_latency
    from stoker.engine.factory import build_engine

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
    with progress("Batches", num_iters_warmup + num_iters) as advance:
        result = measure_latency(
            engine,
            input_len=input_len,
            output_len=output_len,
            batch_size=batch_size,
            n=n,
            use_beam_search=use_beam_search,
            num_iters=num_iters,
            num_iters_warmup=num_iters_warmup,
            on_done=advance,
        )
    typer.echo("\n".join(result.lines()))
    options.write_json(output_json, {"model_id": model, **result.as_json()})
