"""Real engines and a router before them, for as long as a benchmark runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx


@contextmanager
def running(engines: Sequence[dict[str, Any]], patience: float = 300) -> Iterator[str]:
    """`stoker up` with these engines, each as in stoker.yaml; the router's address, once all of
    them answer. Usage is recorded in a storage of its own."""
    with tempfile.TemporaryDirectory(prefix="stoker-benchmark-") as directory:
        config = {
            "router": {"port": 0},
            "storage": {"url": f"sqlite:///{directory}/router.db"},
            "supervision": {"logs": f"{directory}/logs"},
            "engines": engines,
        }
        file, log = Path(directory, "stoker.yaml"), Path(directory, "log")
        file.write_text(json.dumps(config))
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "stoker", "up", str(file)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+:\d+", process.stdout.readline())
            if found is None:
                raise SystemExit(log.read_text())
            _wait(found[0], log, patience)
            yield found[0]
        finally:
            process.terminate()
            process.wait(60)


def _wait(url: str, log: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        engines = httpx.get(f"{url}/health", timeout=30).json()["engines"]
        if all(engine["healthy"] for engine in engines.values()):
            return
        if time.monotonic() > end:
            raise SystemExit(f"Not all engines answer: {engines}\n{log.read_text()}")
        time.sleep(0.1)
