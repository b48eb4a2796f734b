"""The policy that goes by what engines' caches hold."""

from __future__ import annotations

from stoker.router.engines.handle import EngineHandle
from stoker.router.kv.events import Stored
from stoker.router.kv.index import KvIndex
from stoker.router.policies.kv import Kv
from stoker.router.request import Features

from .fleets import chat, fleet


def asking(tokens: list[int]) -> Features:
    features = chat("x" * 4 * len(tokens), max_tokens=8)
    features.tokens = tokens
    return features


def holding(index: KvIndex, engine: EngineHandle, tokens: list[int]) -> None:
    """The engine says that it holds these tokens, in blocks of 16."""
    hashes = tuple(range(len(tokens) // 16))
    index.apply(engine, Stored(hashes, None, tuple(tokens), 16, None))


def test_the_engine_that_holds_most_is_chosen() -> None:
    index = KvIndex(lambda: 0.0)
    engines = fleet(1, 1, 0)
    tokens = list(range(160))
    holding(index, engines[0], tokens[:64])
    holding(index, engines[1], tokens[:128])
    decision = Kv(index).choose(asking(tokens), engines)
    assert decision.engine is engines[1]
    assert (decision.reason, decision.known_tokens) == ("kv: 128 of 160 prompt tokens held", 128)


def test_an_engine_with_too_much_is_passed_over() -> None:
    index = KvIndex(lambda: 0.0)
    engines = fleet(40, 0, 0)
    tokens = list(range(160))
    holding(index, engines[0], tokens)
    assert Kv(index).choose(asking(tokens), engines).engine is not engines[0]


def test_a_little_held_is_not_worth_a_queue() -> None:
    index = KvIndex(lambda: 0.0)
    engines = fleet(7, 0, 0)
    tokens = list(range(160))
    holding(index, engines[0], tokens[:16])
    assert Kv(index).choose(asking(tokens), engines).engine is not engines[0]
