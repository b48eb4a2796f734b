"""`stoker plan`: what a model would take, without loading it."""

from __future__ import annotations

from typing import Annotated

import typer


def plan(
    model: Annotated[
        str, typer.Argument(help="smollm2, hf:org/repo, hf:org/repo:file.gguf, or a path.")
    ] = "smollm2",
    max_model_len: Annotated[int | None, typer.Option(help="Longest prompt plus answer.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(help="Sequences running at once.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(help="Tokens per step.")] = None,
    kv_cache_memory_bytes: Annotated[
        int | None, typer.Option(help="Memory for keys and values.")
    ] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="bfloat16, float32 or int8.")] = None,
    weight_format: Annotated[str | None, typer.Option(help="auto, q4, q8 or bf16.")] = None,
) -> None:
    """Show the memory a model would take: weights, keys and values, activations, what is free."""
    from rich.console import Console
    from rich.table import Table

    from stoker.engine.config import EngineConfig
    from stoker.engine.factory import plan_engine

    given = {
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "kv_cache_memory_bytes": kv_cache_memory_bytes,
        "kv_cache_dtype": kv_cache_dtype,
        "weight_format": weight_format,
    }
    config = EngineConfig.from_mapping({k: v for k, v in given.items() if v is not None})
    _, planned, path = plan_engine(model, config)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("model", "", str(path))
    for row in planned.rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
