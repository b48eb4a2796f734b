"""The encoder against Transformers' hidden states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stoker.errors import ModelCorrupt, UnsupportedModel
from stoker.model.bert import is_bert, open_bert
from stoker.runner.encoder import EncoderRunner

GOLDEN = Path(__file__).parent.parent / "golden" / "encoders"
LENGTHS = (1, 12, 40)


@pytest.fixture(scope="module")
def encoder() -> EncoderRunner:
    return EncoderRunner(open_bert(GOLDEN / "bert"))


@pytest.mark.parametrize("length", LENGTHS)
def test_hidden_states_are_transformers(encoder: EncoderRunner, length: int) -> None:
    golden = np.load(GOLDEN / "bert.npz")
    (found,) = encoder.forward(golden[f"ids_{length}"][None])
    np.testing.assert_allclose(found, golden[f"hidden_{length}"], rtol=1e-4, atol=2e-5)


def test_sequences_of_all_lengths_are_pooled_in_their_order(encoder: EncoderRunner) -> None:
    golden = np.load(GOLDEN / "bert.npz")
    lengths = [length for length in (*LENGTHS, *reversed(LENGTHS)) for _ in range(70)]
    found = encoder.embed([golden[f"ids_{length}"].tolist() for length in lengths])
    expected = [golden[f"hidden_{length}"].mean(axis=0) for length in lengths]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def changed(tmp_path: Path, **fields: object) -> Path:
    copy = Path(shutil.copytree(GOLDEN / "bert", tmp_path / "bert"))
    config = json.loads((copy / "config.json").read_text()) | fields
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_the_first_tokens_state_where_the_model_says_so(tmp_path: Path) -> None:
    directory = changed(tmp_path)
    (directory / "1_Pooling").mkdir()
    modes = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    golden = np.load(GOLDEN / "bert.npz")
    (found,) = EncoderRunner(open_bert(directory)).embed([golden["ids_12"].tolist()])
    np.testing.assert_allclose(found, golden["hidden_12"][0], rtol=1e-4, atol=2e-5)


def test_what_is_wrong_with_a_checkpoint_is_named(tmp_path: Path) -> None:
    assert is_bert(GOLDEN / "bert")
    assert not is_bert(GOLDEN / "llama3")
    with pytest.raises(UnsupportedModel, match="'hidden_act' is 'relu'"):
        open_bert(changed(tmp_path / "a", hidden_act="relu"))
    with pytest.raises(ModelCorrupt, match=r"word_embeddings.weight' has shape \(128, 64\)"):
        open_bert(changed(tmp_path / "b", vocab_size=129))
    with pytest.raises(ModelCorrupt, match=r"tensor 'encoder.layer.2\.\S+ is missing"):
        open_bert(changed(tmp_path / "c", num_hidden_layers=3))
