import pytest

from stoker.errors import ModelNotFound, UnsupportedModel
from stoker.model.store.hub import HubFile, choose_files
from stoker.model.store.names import HubModel
from stoker.model.store.transfer import Checksum

WHOLE = HubModel("org/repo")
INDEX = "model.safetensors.index.json"


def chosen(model: HubModel, *paths: str) -> list[str]:
    files = [HubFile(path, 1, Checksum("00")) for path in paths]
    return [file.path for file in choose_files(model, files)]


def test_a_checkpoint_is_its_weights_and_what_is_needed_beside_them() -> None:
    paths = [
        "README.md",
        "config.json",
        "model.safetensors",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "tokenizer.json",
        "onnx/model.safetensors",
        "additional_chat_templates/rag.jinja",
    ]
    assert chosen(WHOLE, *paths) == [
        "config.json",
        "tokenizer.json",
        "additional_chat_templates/rag.jinja",
        "model.safetensors",
    ]


def test_shards_with_their_index() -> None:
    shards = ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"]
    paths = [*shards, "model.safetensors", INDEX, "config.json"]
    assert chosen(WHOLE, *paths) == ["config.json", *sorted(shards), INDEX]


def test_one_gguf_file() -> None:
    assert chosen(WHOLE, "README.md", "a.gguf") == ["a.gguf"]
    assert chosen(HubModel("org/repo", "b.gguf"), "a.gguf", "b.gguf") == ["b.gguf"]
    with pytest.raises(ModelNotFound, match=r"name one.*hf:org/repo:a\.gguf.*a\.gguf, b\.gguf"):
        chosen(WHOLE, "b.gguf", "a.gguf")
    with pytest.raises(ModelNotFound, match=r"no file 'c\.gguf'.*a\.gguf"):
        chosen(HubModel("org/repo", "c.gguf"), "a.gguf")


def test_weights_in_other_forms_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="neither safetensors nor GGUF"):
        chosen(WHOLE, "config.json", "pytorch_model.bin")


@pytest.mark.parametrize("path", ["../x.gguf", "/x.gguf", "a/../../x.gguf", "..\\x.gguf"])
def test_paths_that_lead_outside_are_not_there(path: str) -> None:
    with pytest.raises(UnsupportedModel):
        chosen(WHOLE, path)
    with pytest.raises(ModelNotFound):
        chosen(HubModel("org/repo", path), path)
