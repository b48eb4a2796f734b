"""Other programs, asked what they are."""

from __future__ import annotations

import shutil
import subprocess

_WITHIN_S = 10.0


def output_of(program: str, *arguments: str) -> str | None:
    """What it writes, to either stream; None when it is not there, fails or takes too long."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_WITHIN_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")
