"""llm-comply judges three APIs by their published schemas, with the default model answering."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.conformance.judges import judge
from tests.conformance.serving import serving
from tests.model.text_data import default_model

pytestmark = pytest.mark.conformance

# A small model's greedy answers may repeat themselves to the end of the context; sampled ones, with
# a seed for the server, end and are the same each time.
FLAGS = ("--sampling-mode", "balanced", "--seed", "4", "--max-model-len", "2048")
IMAGES = {"chat-image-input", "image-input", "anth-image-input"}
"""The default model reads text only, so images are refused, with a 400 that says so."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(default_model(), *FLAGS) as found:
        yield found


@pytest.mark.parametrize("form", ["openai-chat", "open-responses", "anthropic"])
def test_answers_comply(address: str, form: str) -> None:
    comply = judge("http", "llm-comply")
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
