"""Reading a model's files: mapping them, parsing JSON, with errors that name the file."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stoker.errors import ModelCorrupt, ModelNotFound


def map_file(path: Path) -> mmap.mmap:
    """The file's bytes, mapped read-only; `ModelNotFound` or `ModelCorrupt` (empty)."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise ModelCorrupt(f"{path}: the file is empty.") from None
    except OSError as error:
        raise ModelNotFound(f"{path}: {error.strerror}.") from error


def release_pages(data: NDArray[Any]) -> None:
    """Let go of the memory that a mapped file takes in this process, if `data` is a view of one.

    What is read of it again comes from the system's cache of the file, or from the disk.
    """
    base: object = data
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; `ModelNotFound`, or `ModelCorrupt` if it is none."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelNotFound(f"{path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path}: not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{path}: it should hold a JSON object, not {type(value).__name__}.")
    return value
