"""Makes the golden encoder: a tiny random BERT and the hidden states Transformers gives for it.

    python tests/golden/make_bert.py

Needs `torch` and `transformers`, which the project itself does not. Writes into `encoders/` the
checkpoint `bert/` (float32) and `bert.npz` (input ids and last hidden states `[tokens, hidden]` per
sequence).
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

OUT = Path(__file__).parent / "encoders"
VOCAB = 128


def main() -> None:
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    model = BertModel(config).eval()
    arrays = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            parameter.copy_(centre + torch.randn_like(parameter) * 0.15)
        model.save_pretrained(OUT / "bert")
        for length in (1, 12, 40):
            ids = torch.randint(VOCAB, (1, length))
            arrays[f"ids_{length}"] = ids[0].numpy().astype(np.int32)
            arrays[f"hidden_{length}"] = model(ids).last_hidden_state[0].numpy()
    np.savez(OUT / "bert.npz", **arrays)


if __name__ == "__main__":
    main()
