"""The examples with frameworks, each run in an environment of its own against the default model."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conformance.judges import judge
from tests.conformance.serving import serving
from tests.model.text_data import default_model

pytestmark = pytest.mark.conformance

EXAMPLES = Path(__file__).parents[2] / "examples"


def said(environment: str, example: str, directory: Path) -> list[str]:
    """What an example writes, by lines."""
    python = judge(environment, "python")
    with serving(default_model()) as address:
        done = subprocess.run(
            [python, str(EXAMPLES / example)],
            cwd=directory,
            env={
                **{"PATH": os.environ["PATH"], "HOME": str(directory)},
                **{"STOKER_URL": address, "STOKER_MODEL": "model"},
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_langchain(tmp_path: Path) -> None:
    lines = said("langchain", "langchain/chain.py", tmp_path)
    assert "Paris" in lines[0]
    assert lines[-2].startswith("City(name=")
    assert lines[-1] == "Paris lies on the Seine."


def test_llamaindex(tmp_path: Path) -> None:
    lines = said("llamaindex", "llamaindex/search.py", tmp_path)
    assert lines[0] == "The Stoker's lighthouse stands on the northern pier."
    assert "pier" in " ".join(lines[1:])
