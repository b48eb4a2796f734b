"""`stoker bench startup`: from the command to the first token over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from stoker.cli.bench import options
from stoker.cli.progress import progress


def startup(
    model: options.Model = "smollm2",
    num_iters_cold: Annotated[
        int, typer.Option(help="Starts with the model's files not in memory.", min=0)
    ] = 3,
    num_iters_warmup: Annotated[int, typer.Option(help="Starts before, uncounted.", min=0)] = 1,
    num_iters_warm: Annotated[
        int, typer.Option(help="Starts with them in the page cache.", min=0)
    ] = 3,
    serve_arg: Annotated[
        list[str] | None,
        typer.Option(help="Handed to stoker serve, as in --serve-arg=--threads=2; may repeat."),
    ] = None,
    output_json: options.OutputJson = None,
) -> None:
    """Start a server time after time, until it answers with a token. Options and fields are those
    of `vllm bench startup`; peak memory comes with them."""
    from stoker.bench.startup import measure_startup
    from stoker.model.store import resolve

    path = resolve(model)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    with progress("Starts", num_iters_cold + num_iters_warmup + num_iters_warm) as advance:
        report = measure_startup(
            model,
            files,
            serve_arg or (),
            cold=num_iters_cold,
            warmup=num_iters_warmup,
            warm=num_iters_warm,
            on_done=advance,
        )
    typer.echo("\n".join(report.lines()))
    options.write_json(output_json, {"model_id": model, **report.as_json()})
