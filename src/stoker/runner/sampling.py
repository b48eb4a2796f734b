"""Sampling, exactly: what every runner's sampler computes, in NumPy and float64.

For one row of logits, in this order:

1. **Penalties** over the tokens seen. Repetition (over prompt and output): a positive logit is
   divided by the penalty, another multiplied by it. Frequency and presence (over the output):
   minus `frequency_penalty` for every occurrence, minus `presence_penalty` if there is any.
2. **Biases** are added, then **banned and unallowed** tokens become impossible.
3. If the temperature is 0, the largest logit wins; ties go to the lowest token id.
4. **Temperature** divides the logits. Then three filters, each on what the one before has kept;
   tokens that are equally likely are kept or dropped together, so no filter needs an order:
5. **min_p** keeps a token whose probability is at least `min_p` times the largest.
6. **top_k** keeps a token if fewer than `top_k` are more likely.
7. **top_p** keeps a token if the more likely ones together have less than `top_p` of what is
   left after top_k.
8. **Draw**: walk the kept tokens by ascending id and take the first at which the running sum of
   their weights exceeds `uniform(seed, step)` times the sum of all.

A row with a logit that is not finite, or of which every token is impossible, gives `NO_TOKEN`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stoker.runner.base import Float32Array, Int32Array, SampleExtras, SampleRows, TopLogprobs

NO_TOKEN = -1

_WORD = 0xFFFFFFFF


def philox(key: int, counter: int) -> tuple[int, int, int, int]:
    """Philox4x32-10 of a 64-bit key and a 128-bit counter: four 32-bit words.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Words are taken from key
    and counter least significant first.
    """
    k0, k1 = key & _WORD, key >> 32 & _WORD
    c0, c1, c2, c3 = (counter >> shift & _WORD for shift in (0, 32, 64, 96))
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _WORD, (p0 >> 32) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, step: int) -> float:
    """The draw of a sequence's step, in [0, 1): a function of (seed, step) alone.

    The upper 53 of the 64 bits `word 1, word 0` of `philox(seed, step)`, times 2⁻⁵³.
    """
    low, high, _, _ = philox(seed, step)
    return ((high << 32 | low) >> 11) * 2.0**-53


def sample(logits: Float32Array, samples: SampleRows) -> Int32Array:
    """One token for each entry of `samples`; `logits` is `[samples, vocab]`, raw."""
    tokens = np.empty(len(samples), np.int32)
    for i, row in enumerate(logits):
        extras = samples.extras[i] if samples.extras else None
        tokens[i] = sample_row(
            row,
            extras,
            temperature=float(samples.temperature[i]),
            top_k=int(samples.top_k[i]),
            top_p=float(samples.top_p[i]),
            min_p=float(samples.min_p[i]),
            draw=uniform(int(samples.seeds[i]), int(samples.steps[i])),
        )
    return tokens


def sample_row(
    logits: Float32Array,
    extras: SampleExtras | None,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    draw: float,
) -> int:
    """The token that a row of raw logits gives, with `draw` in [0, 1) as its chance."""
    if not np.isfinite(logits).all():
        return NO_TOKEN
    adjusted = logits.astype(np.float64)
    if extras is not None:
        adjusted = _forbid(_penalize(adjusted, extras), extras)
    best = int(adjusted.argmax())
    if adjusted[best] == -np.inf:
        return NO_TOKEN
    if temperature == 0:
        return best
    weights = np.exp((adjusted - adjusted[best]) / temperature)
    weights[weights < min_p] = 0  # the largest weight is 1
    if 0 < top_k < len(weights):
        kth = np.partition(weights, -top_k)[-top_k]
        weights[weights < kth] = 0
    if top_p < 1:
        weights = _keep_top_p(weights, top_p)
    running = weights.cumsum()
    return int(np.searchsorted(running, draw * running[-1], side="right"))


def top_logprobs(logits: Float32Array, chosen: Int32Array, k: int) -> TopLogprobs:
    """Log-probabilities of `chosen` and of the `k` most likely tokens of each row.

    `logits` is `[n, vocab]`, raw. Tokens that are equally likely are ranked by id. A row without
    a token (`NO_TOKEN`) has rank 0 and log-probability -inf.
    """
    count, vocab = logits.shape
    k = min(k, vocab)
    result = TopLogprobs(
        chosen=np.full(count, -np.inf, np.float32),
        ranks=np.zeros(count, np.int32),
        ids=np.zeros((count, k), np.int32),
        logprobs=np.full((count, k), -np.inf, np.float32),
    )
    for i, (row, token) in enumerate(zip(logits, chosen, strict=True)):
        if token == NO_TOKEN or not np.isfinite(row).all():
            continue
        shifted = row.astype(np.float64) - row.max()
        logprobs = shifted - np.log(np.exp(shifted).sum())
        result.chosen[i] = logprobs[token]
        ahead = (row > row[token]) | ((row == row[token]) & (np.arange(vocab) < token))
        result.ranks[i] = 1 + ahead.sum()
        result.ids[i] = np.argsort(-row, kind="stable")[:k]
        result.logprobs[i] = logprobs[result.ids[i]]
    return result


def _penalize(logits: NDArray[np.float64], extras: SampleExtras) -> NDArray[np.float64]:
    if not extras.has_penalties:
        return logits
    prompt = _ids(extras.prompt_ids)
    counts = np.bincount(_ids(extras.output_ids), minlength=len(logits))
    seen = counts > 0
    seen[prompt] = True
    scaled = np.where(
        logits > 0, logits / extras.repetition_penalty, logits * extras.repetition_penalty
    )
    penalized: NDArray[np.float64] = np.where(seen, scaled, logits)
    penalized -= extras.frequency_penalty * counts
    penalized -= extras.presence_penalty * (counts > 0)
    return penalized


def _forbid(logits: NDArray[np.float64], extras: SampleExtras) -> NDArray[np.float64]:
    """Biases, then the tokens that may not be chosen."""
    result = logits.copy()
    if extras.bias_ids is not None and extras.bias_values is not None:
        np.add.at(result, extras.bias_ids, extras.bias_values)
    if extras.banned_ids is not None:
        result[extras.banned_ids] = -np.inf
    if extras.allowed_mask is not None:
        bits = np.unpackbits(extras.allowed_mask.view(np.uint8), bitorder="little")
        result[bits[: len(result)] == 0] = -np.inf
    return result


def _keep_top_p(weights: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    order = np.argsort(-weights, kind="stable")
    ranked = weights[order]
    before = np.concatenate(([0.0], ranked.cumsum()[:-1]))  # the mass ahead of each rank
    last = max(int(np.searchsorted(before, top_p * ranked.sum(), side="left")) - 1, 0)
    return np.where(weights >= ranked[last], weights, 0.0)


def _ids(ids: Int32Array | None) -> Int32Array:
    return np.zeros(0, np.int32) if ids is None else ids
