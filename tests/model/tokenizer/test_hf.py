"""Tokenizers from Hugging Face directories, against Transformers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders

from stoker.errors import InvalidRequest, ModelCorrupt, ModelNotFound, UnsupportedModel
from stoker.model.tokenizer import Tokenizer
from stoker.model.tokenizer.vocabulary import TokenEncoding
from tests.model.text_data import GOLDEN, bytelevel, golden


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the golden directory that a test may change."""
    return Path(shutil.copytree(GOLDEN / "bytelevel", tmp_path / "model"))


@pytest.mark.parametrize("case", golden("bytelevel.json"), ids=lambda case: repr(case["text"]))
def test_ids_and_back(case: dict[str, Any]) -> None:
    tokenizer = bytelevel()
    assert tokenizer.encode(case["text"], add_special_tokens=False) == case["ids"]
    assert tokenizer.encode(case["text"]) == case["with_special"]
    assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["text"]


def test_special_tokens_come_from_the_files_around() -> None:
    tokenizer = bytelevel()
    assert tokenizer.bos_token_id == 0
    assert tokenizer.eos_token_id == 3
    assert tokenizer.eos_token_ids == {1, 3}
    assert tokenizer.special_ids == {0, 1, 2, 3}
    assert tokenizer.encoding is TokenEncoding.BYTE_LEVEL
    assert tokenizer.id_to_token(3) == "<|im_end|>"
    assert tokenizer.token_to_id("<|im_end|>") == 3
    assert tokenizer.id_to_token(tokenizer.vocab_size) is None
    assert tokenizer.id_to_token(-1) is None


def test_the_model_config_may_name_the_end(directory: Path) -> None:
    (directory / "generation_config.json").unlink()
    (directory / "config.json").write_text('{"eos_token_id": 2}')
    assert Tokenizer.load(directory).eos_token_ids == {2, 3}


def test_without_names_the_ids_of_the_config_count(directory: Path) -> None:
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "generation_config.json").unlink()
    (directory / "config.json").write_text('{"bos_token_id": 2, "eos_token_id": [1, [3], "x"]}')
    tokenizer = Tokenizer.load(directory)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 1)
    (directory / "special_tokens_map.json").write_text('{"eos_token": {"content": "<s>"}}')
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.eos_token_id == 0
    assert tokenizer.eos_token_ids == {0, 1}


def test_an_absurd_id_is_refused(directory: Path) -> None:
    described = json.loads((directory / "tokenizer.json").read_text())
    described["model"]["vocab"]["far"] = 4_000_000_000
    (directory / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ModelCorrupt, match="the id 4000000000"):
        Tokenizer.load(directory)


def test_special_tokens_are_left_out_of_the_text_unless_asked_for() -> None:
    ids = bytelevel().encode("<|im_start|>fire<|im_end|>")
    assert bytelevel().decode(ids) == "fire"
    assert bytelevel().decode(ids, skip_special_tokens=False) == "<s><|im_start|>fire<|im_end|>"


def test_ids_without_a_token_are_nothing() -> None:
    tokenizer = bytelevel()
    assert tokenizer.decode([tokenizer.vocab_size + 5, -1]) == ""
    assert tokenizer.token_bytes(tokenizer.vocab_size) == b""


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"U\+D800 at character 3"):
        bytelevel().encode("abc\ud800")


def test_truncation_and_padding_in_the_file_do_not_apply(directory: Path) -> None:
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    backend.save(str(directory / "tokenizer.json"))
    text = "the engine and the fire and the coal"
    assert Tokenizer.load(directory).encode(text) == bytelevel().encode(text)


def test_vocab_and_merges_alone(directory: Path) -> None:
    described = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(described["model"]["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"]]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = Tokenizer.load(directory)
    for text in ("The engine's fire", "火夫は  123\n\n x"):
        assert tokenizer.encode(text) == bytelevel().encode(text, add_special_tokens=False)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokens_declared_beside_the_tokenizer(directory: Path) -> None:
    size = bytelevel().vocab_size
    config = json.loads((directory / "tokenizer_config.json").read_text())
    declared = {str(size): {"content": "<extra>", "special": True, "normalized": False}}
    config["added_tokens_decoder"] = declared
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.encode("<extra>", add_special_tokens=False) == [size]
    assert size in tokenizer.special_ids
    config["added_tokens_decoder"] = {str(size + 7): {"content": "<extra>"}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelCorrupt, match=f"'<extra>' the id {size + 7}"):
        Tokenizer.load(directory)
    config["added_tokens_decoder"] = {"x": "y"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelCorrupt, match=r"added_tokens_decoder\['x'\]"):
        Tokenizer.load(directory)


def test_special_tokens_may_be_objects(directory: Path) -> None:
    config = json.loads((directory / "tokenizer_config.json").read_text())
    config["eos_token"] = {"__type": "AddedToken", "content": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(directory).eos_token_id == 1


def test_chat_templates_from_every_place(directory: Path) -> None:
    config = json.loads((directory / "tokenizer_config.json").read_text())
    config["chat_template"] = [
        {"name": "default", "template": "list"},
        {"name": "tool_use", "template": "list tools"},
    ]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(directory).chat_templates == {
        "default": "list",
        "tool_use": "list tools",
    }
    (directory / "chat_template.json").write_text('{"chat_template": "json"}')
    assert Tokenizer.load(directory).chat_template == "json"
    (directory / "chat_template.jinja").write_text("jinja é")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "rag.jinja").write_text("rag")
    assert Tokenizer.load(directory).chat_templates == {
        "default": "jinja é",
        "tool_use": "list tools",
        "rag": "rag",
    }


@pytest.mark.parametrize(
    ("decoder", "encoding", "strips"),
    [
        (decoders.ByteLevel(), TokenEncoding.BYTE_LEVEL, False),
        (decoders.Metaspace(), TokenEncoding.SENTENCEPIECE, True),
        (decoders.Metaspace(prepend_scheme="never"), TokenEncoding.SENTENCEPIECE, False),
        (
            decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()]),
            TokenEncoding.SENTENCEPIECE,
            False,
        ),
        (
            decoders.Sequence(
                [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            ),
            TokenEncoding.SENTENCEPIECE,
            True,
        ),
        (decoders.WordPiece(), None, False),
        (None, None, False),
    ],
)
def test_the_decoder_tells_how_bytes_are_spelled(
    directory: Path,
    decoder: decoders.Decoder | None,
    encoding: TokenEncoding | None,
    strips: bool,
) -> None:
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.decoder = decoder
    backend.save(str(directory / "tokenizer.json"))
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.encoding is encoding
    assert tokenizer.strip_leading_space is strips
    if encoding is None:
        with pytest.raises(UnsupportedModel, match="cannot be used to generate"):
            tokenizer.decode([5])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"expected tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ModelNotFound, match="no tokenizer at"):
        Tokenizer.load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("tokenizer.json", b"\xff", "not a tokenizer"),
        ("tokenizer_config.json", b"[]", "JSON object"),
        ("tokenizer_config.json", b"{", "not valid JSON"),
        ("generation_config.json", b"\xff", "not valid JSON"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
    ],
)
def test_damaged_files(directory: Path, name: str, content: bytes, message: str) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(ModelCorrupt, match=message):
        Tokenizer.load(directory)
