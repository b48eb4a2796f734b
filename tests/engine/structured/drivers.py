"""A random model under constraint: any token that the mask allows may come."""

from __future__ import annotations

import random

import numpy as np

from stoker.engine.sampling_params import StructuredOutputsParams
from stoker.engine.structured import Grammar, GrammarBackend, Matcher
from tests.engine.doubles import EOS, VOCAB_SIZE, byte_tokenizer

NUM_WORDS = -(-VOCAB_SIZE // 32)
_CLOSING = set(b'"]}')
_OPENING = set(b"\\[{ \t\r\n")


def byte_backend() -> GrammarBackend:
    """Grammars over one token per byte."""
    return GrammarBackend(byte_tokenizer(), VOCAB_SIZE)


def compiled(backend: GrammarBackend, **params: object) -> Grammar:
    return backend.compile(StructuredOutputsParams(**params))  # type: ignore[arg-type]


def allowed(matcher: Matcher) -> set[int]:
    """The tokens that may come next."""
    mask = np.empty(NUM_WORDS, np.uint32)
    matcher.fill_mask(mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the whole of `text` matches, byte by byte; masks and `accept` must agree."""
    matcher = grammar.matcher()
    for byte in text.encode():
        if matcher.is_finished or byte not in allowed(matcher):
            assert not matcher.fork().accept(byte)
            return False
        assert matcher.accept(byte)
    assert (EOS in allowed(matcher)) == matcher.is_accepting
    return matcher.is_accepting


def random_text(grammar: Grammar, seed: int, limit: int = 400) -> str | None:
    """What a model without sense answers; None if it does not come to an end in time."""
    choose = random.Random(seed)
    matcher = grammar.matcher()
    out = bytearray()
    while not matcher.is_finished:
        tokens = sorted(allowed(matcher))
        weights = [_weight(token, len(out)) for token in tokens]
        (token,) = choose.choices(tokens, weights)
        assert matcher.accept(token)
        if token == EOS:
            break
        out.append(token)
        if len(out) == limit:
            return None
    assert matcher.error is None
    return out.decode()


def _weight(token: int, length: int) -> float:
    """Ends grow likelier with the length, so that most answers have one."""
    if token == EOS or token in _CLOSING:
        return 1 + length
    if token in _OPENING:
        return 0.2
    return 0.05 if token >= 0x80 else 1
