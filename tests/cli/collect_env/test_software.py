"""What is installed, and what the environment says without its secrets."""

from __future__ import annotations

import inspect
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from stoker.cli.collect_env import software
from stoker.cli.collect_env.software import environment
from stoker.router.exchange import Exchange


def test_secrets_are_masked() -> None:
    given = {
        "STOKER_API_KEY": "sk-1",
        "HF_TOKEN": "hf-2",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer 3",
        "OPENAI_API_KEY": "",
        "HTTPS_PROXY": "http://me:pw@proxy:3128/",
        "STOKER_STORAGE": "postgresql://u:pw4@db/x?sslmode=on&sslpassword=pw5&user=u",
        "STOKER_URL": "http://127.0.0.1:8000",
        "https_proxy": "http://proxy",
    }
    found = environment(given)
    assert found == {
        "STOKER_API_KEY": "***",
        "HF_TOKEN": "***",
        "OTEL_EXPORTER_OTLP_HEADERS": "***",
        "OPENAI_API_KEY": "",
        "HTTPS_PROXY": "http://***@proxy:3128/",
        "STOKER_STORAGE": "postgresql://***@db/x?sslmode=on&sslpassword=***&user=u",
        "STOKER_URL": "http://127.0.0.1:8000",
        "https_proxy": "http://proxy",
    }


def test_what_does_not_matter_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    given = {
        "PATH": "/home/someone/bin",
        "AWS_SECRET_ACCESS_KEY": "x",
        "MY_STOKER": "x",
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": "/home/someone/a:/home/someone:/srv/home/someone/b",
    }
    assert environment(given) == {
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": "~/a:~:/srv/home/someone/b",
    }


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["numpy>=2.0,<3", "uvloop>=0.21; sys_platform != 'win32'", 'none-such ; extra == "x"']
    monkeypatch.setattr(software, "requires", lambda name: needs)
    assert software._packages() == {
        "none-such": None,
        "numpy": version("numpy"),
        "uvloop": version("uvloop"),
    }

    def not_installed(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(software, "requires", not_installed)
    assert software._packages() == {}


def test_engines_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    llama = programs / "llama-server"
    llama.write_text("#!/bin/sh\necho noise >&2\necho 'version: 6000 (abc)' >&2\n")
    vllm = programs / "vllm"
    vllm.write_text("#!/bin/sh\nexit 1\n")
    for program in (llama, vllm):
        program.chmod(0o755)
    found = software._peers()
    assert found["llama-server"] == "6000 (abc)"
    assert found["vllm"] == f"unknown in {tmp_path}"
    (tmp_path / "lib/python3.12/site-packages/vllm-0.32.0.dist-info").mkdir(parents=True)
    assert software._peers()["vllm"] == f"0.32.0 in {tmp_path}"


def test_kernels() -> None:
    found = software._kernels()
    assert found.error is None
    assert "portable" in found.isas
    assert found.sha256 is not None
    assert len(found.sha256) == 16


def test_router() -> None:
    interpreted = inspect.isfunction(Exchange.send_to)
    assert software._router() == ("Python" if interpreted else "native code")
