"""Every example runs against a real server and says something."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.conftest import RunningServer, server

__all__ = ["server"]  # a fixture

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(server: RunningServer, *command: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "STOKER_URL": server.url, "STOKER_MODEL": "letters"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_python(server: RunningServer, example: Path) -> None:
    said = run(server, sys.executable, str(example)).strip()
    assert said
    if example.name == "structured_output.py":
        answer = ast.literal_eval(said)
        assert set(answer) == {"city", "large"}
    if example.name == "tools.py":
        name, _, arguments = said.partition(" ")
        assert name == "get_weather"
        assert set(ast.literal_eval(arguments)) == {"city"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(server: RunningServer) -> None:
    assert run(server, "sh", str(EXAMPLES / "chat.sh")).rstrip().endswith("data: [DONE]")
