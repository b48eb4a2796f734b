"""Mapped files: what a process holds of them."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from stoker.model.weights.files import map_file, release_pages

SIZE = 64 * mmap.PAGESIZE


def resident_kib(path: Path) -> int:
    """What of the mapped file this process holds, by its own account."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return next(int(found.split()[1]) for found in lines if found.startswith("Rss:"))
    raise AssertionError(f"{path} is not mapped")


def test_released_pages_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    values = np.arange(SIZE // 4, dtype=np.int32)
    path.write_bytes(values.tobytes())
    data = np.frombuffer(map_file(path), np.uint8)[64:].reshape(-1, 4)
    view = data[100:200]
    total = int(data.sum())
    assert resident_kib(path) == SIZE // 1024
    release_pages(view)
    assert resident_kib(path) == 0
    assert int(data.sum()) == total


def test_memory_that_is_no_file_is_left_alone() -> None:
    data = np.arange(1000)
    release_pages(data[10:20])
    release_pages(np.frombuffer(b"12345678", np.uint8))
    assert data.sum() == 499_500
