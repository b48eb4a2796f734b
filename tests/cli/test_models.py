"""The commands as a shell sees them: output, errors, exit status."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.store.server import Site, serve
from tests.model.text_data import GOLDEN, default_model

MODELS = GOLDEN.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub() -> Iterator[Site]:
    with serve() as site:
        yield site


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small random model with a tokenizer."""
    directory = Path(shutil.copytree(GOLDEN / "bytelevel", tmp_path / "checkpoint"))
    for path in (MODELS / "llama3").iterdir():
        shutil.copy(path, directory)
    return directory


def stoker(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with a home of its own and nothing to type."""
    return subprocess.run(
        [sys.executable, "-c", "from stoker.cli.main import main; main()", *arguments],
        env={
            **os.environ,
            "STOKER_HOME": str(tmp_path / "home"),
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def publish(hub: Site, repo: str, directory: Path) -> None:
    """Make the hub have a repository with the files of a directory."""
    siblings = []
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        sibling: dict[str, object] = {"rfilename": path.name, "size": len(content)}
        if path.suffix in (".safetensors", ".gguf"):
            sha256 = hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 100}
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content)
        siblings.append({**sibling, "blobId": blob.hexdigest()})
        hub.files[f"/{repo}/resolve/{COMMIT}/{path.name}"] = content
    info = {"id": repo, "sha": COMMIT, "siblings": siblings}
    hub.files[f"/api/models/{repo}"] = json.dumps(info).encode()
    hub.types[f"/api/models/{repo}"] = "application/json"


def test_a_checkpoint_from_the_hub(tmp_path: Path, hub: Site, checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text("not needed")
    publish(hub, "org/tiny", checkpoint)
    pulled = stoker(tmp_path, "pull", "hf:org/tiny", HF_ENDPOINT=hub.url, HF_TOKEN="t0ken")
    path = tmp_path / "home" / "models" / "hf--org--tiny"
    assert (pulled.returncode, pulled.stdout, pulled.stderr) == (0, f"{path}\n", "")
    names = {file.name for file in path.iterdir()}
    assert names == {file.name for file in checkpoint.iterdir()} - {"README.md"} | {"stoker.json"}
    for name in names - {"stoker.json"}:
        assert (path / name).read_bytes() == (checkpoint / name).read_bytes()
    authorizations = {headers.get("authorization") for headers in _lower(hub)}
    assert authorizations == {"Bearer t0ken"}

    listed = stoker(tmp_path, "list").stdout.splitlines()
    assert listed[0].split() == ["NAME", "SIZE", "QUANTIZATION", "PATH"]
    fields = listed[1].split()
    assert (fields[0], fields[3:]) == ("hf:org/tiny", ["BF16", str(path)])

    shown = stoker(tmp_path, "show", "hf:org/tiny").stdout
    facts = dict(line.split("  ", 1) for line in shown.splitlines())
    assert {key: value.strip() for key, value in facts.items()}["tokenizer"] == (
        "byte-level BPE, 501 tokens"
    )

    kept = stoker(tmp_path, "rm", "hf:org/tiny")
    assert kept.returncode == 1
    assert path.exists()
    removed = stoker(tmp_path, "rm", "hf:org/tiny", "--yes")
    assert (removed.returncode, removed.stdout) == (0, "")
    assert "hf:org/tiny" in removed.stderr
    assert not path.exists()
    assert "No models" in stoker(tmp_path, "list").stderr


def _lower(site: Site) -> list[dict[str, str]]:
    return [{key.lower(): value for key, value in headers.items()} for headers in site.headers]


def test_one_gguf_file_from_the_hub(tmp_path: Path, hub: Site) -> None:
    directory = tmp_path / "files"
    directory.mkdir()
    for name in ("a-Q4.gguf", "b-Q8.gguf"):
        (directory / name).write_bytes(name.encode() * 1000)
    publish(hub, "org/quantized", directory)
    several = stoker(tmp_path, "pull", "hf:org/quantized", HF_ENDPOINT=hub.url)
    assert several.returncode == 1
    assert "hf:org/quantized:a-Q4.gguf" in several.stderr
    one = stoker(tmp_path, "pull", "hf:org/quantized:b-Q8.gguf", HF_ENDPOINT=hub.url)
    assert one.returncode == 0
    assert Path(one.stdout.strip()).read_bytes() == b"b-Q8.gguf" * 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull", "nothing"], "there is no model 'nothing'"),
        (["pull", "hf:org/missing"], "no repository 'org/missing'"),
        (["show", "hf:org/missing"], "run: stoker pull hf:org/missing"),
        (["show", "/missing.gguf"], "there is no model '/missing.gguf'"),
        (["rm", "--yes", "smollm2"], "smollm2 is not in"),
        (["rm", "--yes", "."], "outside the store"),
    ],
)
def test_errors_are_one_line_and_status_1(
    tmp_path: Path, hub: Site, arguments: list[str], message: str
) -> None:
    result = stoker(tmp_path, *arguments, HF_ENDPOINT=hub.url)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("stoker: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_a_hub_that_does_not_answer(tmp_path: Path, hub: Site) -> None:
    hub.statuses = [500] * 9
    for endpoint in ("http://127.0.0.1:9", hub.url):
        result = stoker(tmp_path, "pull", "hf:org/x", HF_ENDPOINT=endpoint)
        assert result.returncode == 1
        assert result.stderr.startswith("stoker: the hub could not be asked for 'org/x': ")
        assert result.stderr.count("\n") == 1


def test_a_path_is_shown_and_pulled_as_it_is(tmp_path: Path, checkpoint: Path) -> None:
    assert stoker(tmp_path, "pull", str(checkpoint)).stdout == f"{checkpoint}\n"
    shown = stoker(tmp_path, "show", str(checkpoint)).stdout
    assert f"path           {checkpoint}" in shown
    assert "chat template  no" in shown


def test_usage_errors_are_status_2(tmp_path: Path) -> None:
    result = stoker(tmp_path, "pull", "--no-such-option")
    assert result.returncode == 2
    assert "no-such-option" in result.stderr


@pytest.mark.model
def test_default_model_is_shown(tmp_path: Path) -> None:
    shown = stoker(tmp_path, "show", str(default_model())).stdout
    facts = dict(line.split("  ", 1) for line in shown.splitlines())
    assert {key: value.strip() for key, value in facts.items() if key not in ("name", "path")} == {
        "size": "98.4 MB",
        "architecture": "llama",
        "parameters": "134.5 million",
        "layers": "30 of hidden size 576",
        "attention": "9 heads of 64, 3 for keys and values",
        "context": "8192 tokens",
        "quantization": "Q4_1",
        "tokenizer": "byte-level BPE, 49152 tokens",
        "chat template": "yes",
    }
