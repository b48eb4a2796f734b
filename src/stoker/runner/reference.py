"""The oracle: the forward pass in NumPy and float32, as short as it can be read.

It keeps the one rule bit for bit: matrices are multiplied row by row and attention is computed
query by query, so nothing depends on what else is in the batch or how a prompt was cut.
"""

from __future__ import annotations

import math

import numpy as np

from stoker.model.spec import ModelSpec, RopeSpec
from stoker.model.weights.base import Weights
from stoker.runner.base import Batch, CacheConfig, Float32Array, Int32Array, StepResult
from stoker.runner.sampling import sample, top_logprobs

_erf = np.frompyfunc(math.erf, 1, 1)


class ReferenceRunner:
    """A `ModelRunner` that holds every weight dequantized, and its cache in float32.

    With a cache of dtype `bfloat16` keys and values are rounded to it when they are written;
    `int8` is refused with `ValueError`.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, cache: CacheConfig) -> None:
        if cache.dtype == "int8":
            raise ValueError("the reference runner's cache is float32 or bfloat16, not int8")
        self.spec = spec
        self.cache = cache
        self._weights = {name: weights[name].dequantize() for name in weights}
        shape = (spec.num_layers, cache.num_slots, spec.num_kv_heads, spec.head_dim)
        self._keys = np.zeros(shape, np.float32)
        self._values = np.zeros(shape, np.float32)
        self._last: tuple[Batch, Int32Array]

    def run(self, batch: Batch) -> StepResult:
        """Compute one step; see `ModelRunner.run`."""
        self._copy_blocks(batch.block_copies)
        with np.errstate(over="ignore", invalid="ignore"):
            hidden = self._forward(batch)
            if batch.before_sampling is not None:
                batch.before_sampling()
            result = self._sample(batch, hidden)
        if batch.embed_rows is not None:
            result.embeddings = hidden[batch.embed_rows]
        self._last = batch, result.token_ids
        return result

    def run_next(self, block_tables: Int32Array | None) -> StepResult:
        """Compute the step after the last; see `ModelRunner.run_next`."""
        batch, sampled = self._last
        return self.run(batch.next(sampled, block_tables))

    def logits(self, batch: Batch) -> Float32Array:
        """The logits of every token of a batch, `[tokens, vocab]`; runs the step."""
        self._copy_blocks(batch.block_copies)
        return self._project(self._forward(batch))

    def close(self) -> None:
        self._weights.clear()
        self._keys = self._values = np.zeros((0, 0, 0, 0), np.float32)

    def _forward(self, batch: Batch) -> Float32Array:
        """The final hidden states, after the last norm: `[tokens, hidden]`."""
        spec = self.spec
        positions, slots = self._places(batch)
        x = self._weights["embed.weight"][batch.token_ids] * np.float32(spec.embedding_scale)
        if spec.learned_positions:
            x = x + self._weights["positions.weight"][positions]
        rotations = [_rotation(rope, positions) for rope in spec.ropes]
        for i in range(spec.num_layers):
            x = x + self._attention(i, x, batch, positions, slots, rotations)
            x = x + self._mlp(i, x)
        return self._norm("norm", x)

    def _attention(
        self,
        i: int,
        x: Float32Array,
        batch: Batch,
        positions: Int32Array,
        slots: Int32Array,
        rotations: list[tuple[Float32Array, Float32Array]],
    ) -> Float32Array:
        spec, layer = self.spec, f"layers.{i}"
        h = self._norm(f"{layer}.attn_norm", x)
        q = self._linear(f"{layer}.q", h).reshape(-1, spec.num_heads, spec.head_dim)
        k = self._linear(f"{layer}.k", h).reshape(-1, spec.num_kv_heads, spec.head_dim)
        v = self._linear(f"{layer}.v", h).reshape(-1, spec.num_kv_heads, spec.head_dim)
        if spec.head_norm:
            q = _rms_norm(q, self._weights[f"{layer}.q_norm.weight"], spec.norm_eps)
            k = _rms_norm(k, self._weights[f"{layer}.k_norm.weight"], spec.norm_eps)
        rope = spec.layers[i].rope
        if rope is not None:
            q, k = _rotate(q, *rotations[rope]), _rotate(k, *rotations[rope])
        self._keys[i, slots] = self._stored(k)
        self._values[i, slots] = self._stored(v)

        window = spec.layers[i].window
        attended = np.empty_like(q)
        for s in range(batch.num_sequences):
            rows = range(batch.query_starts[s], batch.query_starts[s + 1])
            context = self._slots_of(batch, s)
            keys, values = self._keys[i, context], self._values[i, context]
            for row in rows:
                stop = positions[row] + 1
                start = 0 if window is None else max(stop - window, 0)
                attended[row] = self._attend(q[row], keys[start:stop], values[start:stop])
        out = self._linear(f"{layer}.o", attended.reshape(len(x), -1))
        return self._norm(f"{layer}.post_attn_norm", out) if spec.post_norms else out

    def _attend(self, q: Float32Array, keys: Float32Array, values: Float32Array) -> Float32Array:
        """One query: q `[heads, head_dim]`, keys and values `[context, kv_heads, head_dim]`."""
        spec = self.spec
        grouped = q.reshape(spec.num_kv_heads, -1, spec.head_dim)
        scores = grouped @ keys.transpose(1, 2, 0) * np.float32(spec.attention_scale)
        if spec.attention_softcap is not None:
            scores = _softcap(scores, spec.attention_softcap)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended: Float32Array = weights @ values.transpose(1, 0, 2)
        return attended.reshape(q.shape)

    def _mlp(self, i: int, x: Float32Array) -> Float32Array:
        layer = f"layers.{i}"
        h = self._norm(f"{layer}.mlp_norm", x)
        if self.spec.gated:
            m = self._act(self._linear(f"{layer}.gate", h)) * self._linear(f"{layer}.up", h)
        else:
            m = self._act(self._linear(f"{layer}.up", h))
        out = self._linear(f"{layer}.down", m)
        return self._norm(f"{layer}.post_mlp_norm", out) if self.spec.post_norms else out

    def _act(self, x: Float32Array) -> Float32Array:
        match self.spec.activation:
            case "silu":
                activated: Float32Array = x / (1 + np.exp(-x))
            case "gelu_tanh":
                inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
                activated = np.float32(0.5) * x * (1 + np.tanh(inner))
            case "gelu":
                erf = _erf(x * np.float32(math.sqrt(0.5))).astype(np.float32)
                activated = np.float32(0.5) * x * (1 + erf)
        return activated

    def _norm(self, name: str, x: Float32Array) -> Float32Array:
        weight = self._weights[f"{name}.weight"]
        if self.spec.norm == "rms":
            return _rms_norm(x, weight, self.spec.norm_eps)
        centred = x - x.mean(axis=-1, keepdims=True)
        return _rms_norm(centred, weight, self.spec.norm_eps) + self._weights[f"{name}.bias"]

    def _linear(self, name: str, x: Float32Array) -> Float32Array:
        """`x Wᵀ (+ b)`, a product per row."""
        y = _per_row_product(self._weights[f"{name}.weight"], x)
        bias = self._weights.get(f"{name}.bias")
        return y if bias is None else y + bias

    def _project(self, hidden: Float32Array) -> Float32Array:
        """Hidden states → logits."""
        table = "embed.weight" if self.spec.tied_embeddings else "lm_head.weight"
        logits = _per_row_product(self._weights[table], hidden)
        cap = self.spec.logit_softcap
        return logits if cap is None else _softcap(logits, cap)

    def _sample(self, batch: Batch, hidden: Float32Array) -> StepResult:
        logits = self._project(hidden[batch.sample.rows])
        result = StepResult(token_ids=sample(logits, batch.sample))
        wanted = int(batch.sample.num_logprobs.max(initial=-1))
        if wanted >= 0:
            result.logprobs = top_logprobs(logits, result.token_ids, wanted)
        if batch.score is not None:
            wanted = int(batch.score.num_logprobs.max(initial=0))
            logits = self._project(hidden[batch.score.rows])
            result.scores = top_logprobs(logits, batch.score.targets, wanted)
        return result

    def _places(self, batch: Batch) -> tuple[Int32Array, Int32Array]:
        """Every token's position in its sequence, and its slot in the cache."""
        positions, slots = [], []
        for s in range(batch.num_sequences):
            all_slots = self._slots_of(batch, s)
            start = batch.context_lens[s]
            positions.append(np.arange(start, len(all_slots), dtype=np.int32))
            slots.append(all_slots[start:])
        return np.concatenate(positions), np.concatenate(slots)

    def _slots_of(self, batch: Batch, s: int) -> Int32Array:
        """The slots of a sequence's tokens, cached and new, by position."""
        new = batch.query_starts[s + 1] - batch.query_starts[s]
        position = np.arange(batch.context_lens[s] + new, dtype=np.int32)
        size = self.cache.block_size
        slots: Int32Array = batch.block_tables[s, position // size] * size + position % size
        return slots

    def _copy_blocks(self, copies: Int32Array | None) -> None:
        size = self.cache.block_size
        for source, target in [] if copies is None else copies:
            for cache in (self._keys, self._values):
                cache[:, target * size : (target + 1) * size] = cache[
                    :, source * size : (source + 1) * size
                ]

    def _stored(self, x: Float32Array) -> Float32Array:
        return _round_to_bfloat16(x) if self.cache.dtype == "bfloat16" else x


def _per_row_product(weight: Float32Array, x: Float32Array) -> Float32Array:
    """`x Wᵀ` as one matrix-vector product per row, each of the same shape."""
    product: Float32Array = (weight @ x[:, :, None])[:, :, 0]
    return product


def _rms_norm(x: Float32Array, weight: Float32Array, eps: float) -> Float32Array:
    scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps))
    normed: Float32Array = x * scale * weight
    return normed


def _softcap(x: Float32Array, cap: float) -> Float32Array:
    capped: Float32Array = np.tanh(x / np.float32(cap)) * np.float32(cap)
    return capped


def _rotation(rope: RopeSpec, positions: Int32Array) -> tuple[Float32Array, Float32Array]:
    """Cosines and sines, `[tokens, 1, dim / 2]`."""
    inv_freq = np.asarray(rope.inv_freq, np.float32)
    angles = positions[:, None, None].astype(np.float32) * inv_freq
    factor = np.float32(rope.attention_factor)
    return np.cos(angles) * factor, np.sin(angles) * factor


def _rotate(x: Float32Array, cos: Float32Array, sin: Float32Array) -> Float32Array:
    """Rotates the first elements of each head; x is `[tokens, heads, head_dim]`."""
    half = cos.shape[-1]
    first, second, rest = np.split(x, (half, 2 * half), axis=-1)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin, rest), axis=-1)


def _round_to_bfloat16(x: Float32Array) -> Float32Array:
    """The nearest bfloat16, ties to even, as float32."""
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)
