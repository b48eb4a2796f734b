"""Embeddings, as openai-python sees them."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from stoker.server.load import load_encoder
from tests.server.conftest import RunningServer, running
from tests.server.doubles import HIDDEN

GOLDEN = Path(__file__).parent.parent / "golden" / "encoders"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "sea", "is", "calm", "##er", "boat"]


def with_tokenizer(parent: Path) -> Path:
    """The golden BERT in a directory of its own, with a WordPiece tokenizer that would cut and
    pad."""
    directory = Path(shutil.copytree(GOLDEN / "bert", parent / "bert"))
    vocab = {word: index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The golden BERT behind a server."""
    directory = with_tokenizer(tmp_path_factory.mktemp("m"))
    with running(lambda: load_encoder(directory)) as found:
        yield found


def ask(server: RunningServer, **fields: Any) -> openai.types.CreateEmbeddingResponse:
    return server.client.embeddings.create(**({"model": "letters"} | fields))


def expected(server: RunningServer, tokens: list[int]) -> np.ndarray[Any, Any]:
    assert server.state.encoder is not None
    (vector,) = server.state.encoder.encoder.embed([tokens])
    found: np.ndarray[Any, Any] = vector / np.linalg.norm(vector)
    return found


def test_texts_and_tokens_one_and_many(encoder: RunningServer) -> None:
    text, tokens = "the sea is calmer", [2, 4, 5, 6, 7, 8, 3]
    short = [2, 9, 3]
    answer = ask(encoder, input=[text, "boat"])
    assert [item.index for item in answer.data] == [0, 1]
    for item, wanted in zip(answer.data, (tokens, short), strict=True):
        np.testing.assert_allclose(item.embedding, expected(encoder, wanted), atol=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 10
    by_tokens = ask(encoder, input=[tokens, short])
    assert by_tokens.data[0].embedding == answer.data[0].embedding
    assert (
        ask(encoder, input=short).data[0].embedding == ask(encoder, input="boat").data[0].embedding
    )


def test_floats_and_base64_are_the_same_numbers(encoder: RunningServer) -> None:
    body = {"model": "letters", "input": "boat"}
    floats = encoder.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    text = encoder.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    raw = base64.b64decode(text["data"][0]["embedding"])
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4"), np.array(floats, np.float32))


def test_fewer_dimensions_are_normalised_again(encoder: RunningServer) -> None:
    whole = np.array(ask(encoder, input="boat").data[0].embedding)
    part = np.array(ask(encoder, input="boat", dimensions=5).data[0].embedding)
    np.testing.assert_allclose(part, whole[:5] / np.linalg.norm(whole[:5]), atol=1e-6)
    assert np.linalg.norm(part) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": [1, 128]}, "token 128"),
        ({"input": [1] * 65}, "65 tokens; the model takes 64"),
        ({"input": "boat", "dimensions": 65}, "65"),
        ({"input": []}, "input"),
        ({"input": [["x"]]}, "input"),
        ({"input": "boat", "encoding_format": "int8"}, "encoding_format"),
        ({}, "input"),
    ],
)
def test_what_is_wrong_is_a_400(encoder: RunningServer, fields: Any, message: str) -> None:
    answer = encoder.post("/v1/embeddings", json={"model": "letters", **fields})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_an_encoder_serves_nothing_else(encoder: RunningServer) -> None:
    assert encoder.get("/health").status_code == 200
    assert [model.id for model in encoder.client.models.list()] == ["letters"]
    with pytest.raises(openai.BadRequestError, match="embeddings only"):
        encoder.client.chat.completions.create(
            model="letters", messages=[{"role": "user", "content": "Hi"}]
        )
    with pytest.raises(openai.NotFoundError):
        ask(encoder, model="other", input="boat")


def test_a_decoder_s_states_are_pooled(server: RunningServer) -> None:
    states = np.cos(np.array([[ord(c) * k for k in range(1, HIDDEN + 1)] for c in "sea"]))
    for pooling, vector in (("last", states[-1]), ("mean", states.mean(axis=0))):
        answer = ask(server, input="sea", extra_body={"pooling": pooling})
        wanted = vector / np.linalg.norm(vector)
        np.testing.assert_allclose(answer.data[0].embedding, wanted, atol=1e-5)
    assert ask(server, input="sea").usage.prompt_tokens == 3
    assert len(ask(server, input=["a", "b", "c"]).data) == 3
