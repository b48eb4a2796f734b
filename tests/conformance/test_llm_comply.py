"""llm-comply judges three APIs by their published schemas, with the default model answering.

`STOKER_JUDGES` names the directory that holds the program; `make conformance` sets it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.model.text_data import default_model

pytestmark = pytest.mark.conformance

SERVE = "from stoker.cli.main import main; main()"
IMAGES = {"chat-image-input", "image-input", "anth-image-input"}
"""The default model reads text only, so images are refused, with a 400 that says so."""


@pytest.fixture(scope="module")
def comply() -> str:
    program = shutil.which("llm-comply", path=os.environ.get("STOKER_JUDGES"))
    if program is None:
        pytest.skip("STOKER_JUDGES does not name a directory with llm-comply in it")
    return program


@contextmanager
def serving(*flags: str) -> Iterator[str]:
    """`stoker serve` with the default model, in a process of its own; yields its address."""
    command = [sys.executable, "-c", SERVE, "serve", str(default_model()), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--served-model-name", "model", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+(?=/v1)", line):
                yield found[0]
                return
        pytest.fail(said)
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    # A small model's greedy answers may repeat themselves to the end of the context; sampled
    # ones, with a seed for the server, end and are the same each time.
    with serving("--sampling-mode", "balanced", "--seed", "1") as found:
        yield found


@pytest.mark.parametrize("form", ["openai-chat", "open-responses", "anthropic"])
def test_answers_comply(comply: str, address: str, form: str) -> None:
    done = subprocess.run(
        [comply, "--format", form, "-u", f"{address}/v1", "-k", "x", "-m", "model", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    results = {result["id"]: result for result in json.loads(done.stdout)["results"]}
    failed = {name: result for name, result in results.items() if result["status"] == "failed"}
    assert set(failed) <= IMAGES, json.dumps(failed, indent=2)
    for result in failed.values():
        assert "HTTP 400 (expected [200])" in result["errors"]
    assert sum(result["status"] == "passed" for result in results.values()) >= 7
