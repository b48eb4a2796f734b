"""Sentence embeddings with a BERT-type encoder, in NumPy and float32.

Whole sequences at a time, those of equal length together: no padding, and the matrix products are
the BLAS library's. A text's numbers may differ in the last bits with what is computed beside it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from stoker.model.bert import BertSpec, LoadedBert
from stoker.runner.base import Float32Array

_MOST_TOKENS = 4096
"""Computed together; bounds the working memory."""


class EncoderRunner:
    """Embeds token sequences; thread-safe, as it keeps nothing between calls."""

    def __init__(self, loaded: LoadedBert) -> None:
        self.spec: BertSpec = loaded.spec
        self._weights = loaded.weights

    def embed(self, sequences: Sequence[Sequence[int]]) -> Float32Array:
        """One vector a sequence, `[sequences, hidden]`, pooled as the model wants it. None may be
        empty or longer than `spec.max_position`, and every id must be in the vocabulary."""
        found = np.empty((len(sequences), self.spec.hidden_size), np.float32)
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for index, tokens in enumerate(sequences):
            by_length[len(tokens)].append(index)
        for length, indices in by_length.items():
            size = max(_MOST_TOKENS // length, 1)
            for start in range(0, len(indices), size):
                part = indices[start : start + size]
                hidden = self.forward(np.array([sequences[i] for i in part], np.int32))
                found[part] = hidden[:, 0] if self.spec.pooling == "cls" else hidden.mean(axis=1)
        return found

    def forward(self, token_ids: np.ndarray[tuple[int, int], np.dtype[np.int32]]) -> Float32Array:
        """The last hidden states of sequences of one length: `[batch, length]` in,
        `[batch, length, hidden]` out."""
        weights = self._weights
        x = weights["embeddings.word_embeddings.weight"][token_ids]
        x = x + weights["embeddings.position_embeddings.weight"][: token_ids.shape[1]]
        x = x + weights["embeddings.token_type_embeddings.weight"][0]
        x = self._norm("embeddings.LayerNorm", x)
        for i in range(self.spec.num_layers):
            layer = f"encoder.layer.{i}"
            attended = self._attention(f"{layer}.attention.self", x)
            attended = self._linear(f"{layer}.attention.output.dense", attended)
            x = self._norm(f"{layer}.attention.output.LayerNorm", x + attended)
            middle = _gelu(self._linear(f"{layer}.intermediate.dense", x))
            x = self._norm(
                f"{layer}.output.LayerNorm", x + self._linear(f"{layer}.output.dense", middle)
            )
        return x

    def _attention(self, name: str, x: Float32Array) -> Float32Array:
        """Every token attends to every other: `[batch, length, hidden]` in and out."""
        spec = self.spec
        batch, length, _ = x.shape
        q, k, v = (
            self._linear(f"{name}.{part}", x)
            .reshape(batch, length, spec.num_heads, spec.head_dim)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 1, 3, 2) * np.float32(spec.head_dim**-0.5)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        attended: Float32Array = (scores @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        return attended

    def _linear(self, name: str, x: Float32Array) -> Float32Array:
        """`x Wᵀ + b`"""
        weight = self._weights[f"{name}.weight"]
        y = x.reshape(-1, weight.shape[1]) @ weight.T + self._weights[f"{name}.bias"]
        return y.reshape(*x.shape[:-1], -1)

    def _norm(self, name: str, x: Float32Array) -> Float32Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        normed: Float32Array = centred / np.sqrt(variance + np.float32(self.spec.norm_eps))
        return normed * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _gelu(x: Float32Array) -> Float32Array:
    """`x Φ(x)`. The error function by formula 7.1.26 of Abramowitz and Stegun, exact to 1.5e-7."""
    z = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.float32(1.061405429) * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(coefficient)) * t
    erf = np.copysign(1 - series * np.exp(-z * z), x)
    activated: Float32Array = np.float32(0.5) * x * (1 + erf)
    return activated
