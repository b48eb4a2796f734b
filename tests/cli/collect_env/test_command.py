"""`stoker collect-env` as a shell sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stoker import __version__
from tests.cli.test_clients import stoker


def test_for_people_and_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_HOME", str(tmp_path))
    monkeypatch.setenv("STOKER_API_KEY", "sk-secret")
    text, told = stoker("collect-env"), stoker("collect-env", "--json")
    assert (text.returncode, text.stderr, told.returncode) == (0, "", 0)
    assert "sk-secret" not in text.stdout + told.stdout
    titles = [line for line in text.stdout.splitlines() if line and not line.startswith(" ")]
    assert titles == [
        *("Stoker", "System", "Processors", "Memory", "GPUs", "Packages"),
        *("Beside it", "Models", "Environment"),
    ]
    assert "  STOKER_API_KEY: ***" in text.stdout.splitlines()
    found = json.loads(told.stdout)
    assert set(found) == {"software", "system", "processors", "memory", "gpus"}
    assert found["software"]["stoker"] == __version__
    chosen = found["software"]["kernels"]["isas"][-1]
    assert f"runs {chosen}" in text.stdout
    assert found["processors"]["usable"] >= 1
    assert found["memory"]["total"] > found["memory"]["usable"] > 0
