"""Progress of a download, shown on a terminal and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the number of bytes that have arrived since the last call."""


class Progress(Protocol):
    """Opens a bar for one download and closes it again."""

    def __call__(self, label: str, total: int, done: int) -> AbstractContextManager[Advance]:
        """`total` bytes in all, of which `done` are here already."""
        ...


@contextmanager
def no_progress(label: str, total: int, done: int) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda _: None


@contextmanager
def terminal_progress(label: str, total: int, done: int) -> Iterator[Advance]:
    """A bar on standard error if that is a terminal, otherwise nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress
    from rich.console import Console

    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        task = bars.add_task(label, total=total, completed=done)
        yield lambda count: bars.advance(task, count)
