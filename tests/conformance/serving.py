"""Servers and routers in processes of their own, for programs that know nothing but an address."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVE = "from stoker.cli.main import main; main()"


@contextmanager
def serving(model: Path, *flags: str) -> Iterator[str]:
    """Serve `model` under the name "model"; yields the server's address."""
    command = [sys.executable, "-c", SERVE, "serve", str(model), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--served-model-name", "model", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = process.stdout
    assert output is not None
    reader: threading.Thread | None = None
    try:
        said = ""
        for line in output:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+(?=/v1)", line):
                # A full pipe would stop the server in the middle of a log line.
                reader = threading.Thread(target=output.read)
                reader.start()
                yield found[0]
                return
        pytest.fail(said)
    finally:
        process.terminate()
        process.wait()
        if reader is not None:
            reader.join()
        output.close()


@contextmanager
def routed(
    engine: str, directory: Path, **settings: float
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`stoker router` before the server at `engine`, with `settings` of `router`: its address and
    its process. Its log is in `directory`."""
    config = {
        "router": {"port": 0, **settings},
        "storage": {"url": f"sqlite:///{directory}/router.db"},
        "engines": [{"name": "one", "kind": "native", "url": engine}],
    }
    file = directory / "stoker.yaml"
    file.write_text(json.dumps(config))
    with (directory / "router.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "router", str(file)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert found, (directory / "router.log").read_text()
            yield found[0].removesuffix(":"), process
        finally:
            process.kill()
            process.communicate()
