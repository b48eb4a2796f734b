"""The progress bar of `LLM`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""Called for each finished prompt, with its tokens and those of its answers."""


@contextmanager
def progress_bar(num_prompts: int) -> Iterator[Advance]:
    """A bar over prompts on standard error, with tokens per second in and out."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Elapsed(),
        Remaining(),
        TextColumn("{task.fields[speed]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Prompts", total=num_prompts, speed="")
        tokens_in = tokens_out = 0

        def advance(prompt_tokens: int, answer_tokens: int) -> None:
            nonlocal tokens_in, tokens_out
            tokens_in += prompt_tokens
            tokens_out += answer_tokens
            elapsed = progress.tasks[task].elapsed or 0.0
            speed = ""
            if elapsed > 0:
                speed = f"in {tokens_in / elapsed:.1f} tok/s, out {tokens_out / elapsed:.1f} tok/s"
            progress.update(task, advance=1, speed=speed)

        yield advance
