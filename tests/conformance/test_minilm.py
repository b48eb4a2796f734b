"""The catalogue's all-MiniLM-L6-v2, fetched from the package index, as Transformers computes it.

`tests/golden/encoders/minilm.npz` holds, for each sentence, the token ids and the normalised mean
of the last hidden states that Transformers gives for the same weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stoker.model.store import Store, no_progress
from stoker.model.store.names import CATALOGUE
from stoker.server.load import load_encoder

pytestmark = pytest.mark.conformance

SENTENCES = ("The sea is calm tonight.", "A boat on quiet water", "Quarterly revenue fell by 3%.")
GOLDEN = Path(__file__).parent.parent / "golden" / "encoders" / "minilm.npz"


def test_sentences_are_transformers(tmp_path: Path) -> None:
    served = load_encoder(Store(tmp_path).pull(CATALOGUE["minilm"], no_progress).path)
    golden = np.load(GOLDEN)
    ids = [served.tokenizer.encode(text, add_special_tokens=True) for text in SENTENCES]
    assert ids == [golden[f"ids{i}"].tolist() for i in range(3)]
    vectors = served.encoder.embed(ids)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.stack([golden[str(i)] for i in range(3)])
    np.testing.assert_allclose(vectors, expected, atol=2e-6)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.4 > abs(similar[0, 2])
