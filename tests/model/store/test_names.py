from pathlib import Path

import pytest

from stoker.errors import ModelNotFound
from stoker.model.store.names import CATALOGUE, HubModel, parse_name


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_name("smollm2") is CATALOGUE["smollm2"]
    assert parse_name("hf:org/repo") == HubModel("org/repo")
    assert parse_name("org/repo.v1-2") == HubModel("org/repo.v1-2")
    assert parse_name("hf:org/repo:sub/a-Q4.gguf") == HubModel("org/repo", "sub/a-Q4.gguf")
    assert parse_name(str(tmp_path)) == tmp_path
    Path("org/repo").mkdir(parents=True)
    assert parse_name("org/repo") == Path("org/repo")
    assert parse_name("hf:org/repo") == HubModel("org/repo")


def test_keys_are_one_directory_each() -> None:
    assert CATALOGUE["smollm2"].key == "smollm2"
    assert HubModel("org/repo").key == "hf--org--repo"
    assert HubModel("org/repo", "sub/a.gguf").key == "hf--org--repo--sub--a.gguf"
    assert HubModel("org/repo", "sub/a.gguf").name == "hf:org/repo:sub/a.gguf"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "smollm3",
        "hf:",
        "hf:repo",
        "hf:org/repo/more",
        "hf:../repo",
        "hf:org/..",
        "hf:org/repo:../../x.gguf",
        "hf:org/repo:/etc/x.gguf",
        "hf:org/repo:model.bin",
        "hf:org--a/repo",
        "hf:ørg/repo",
        "./missing.gguf",
        "/missing/model.gguf",
        "a\x00b",
    ],
)
def test_no_such_name(name: str) -> None:
    with pytest.raises(ModelNotFound, match="hf:org/repo"):
        parse_name(name)


@pytest.mark.parametrize(("name", "meant"), [("smolm2", "smollm2"), ("MiniLM", "minilm")])
def test_a_name_that_is_nearly_right(name: str, meant: str) -> None:
    with pytest.raises(ModelNotFound, match=rf"no model '{name}' \(did you mean {meant}\?\)"):
        parse_name(name)
