"""KV events as vLLM writes them.

A payload is MessagePack: an array `[ts, events, data_parallel_rank]` whose events are maps with
their kind under `type`. Fields that only engines with parts we lack would fill are left out, as
vLLM leaves them out when they are empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from stoker.engine import kv_events as engine

# vLLM's word for the memory that attention reads, whatever the device; subscribers weigh a block
# by it.
_MEDIUM = "GPU"
_GROUP = 0
_RANK = 0
_HASH_BITS = (1 << 64) - 1


class BlockStored(msgspec.Struct, tag=True, gc=False):
    """Full blocks entered the cache, each the parent of the next."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[str, ...] | None]
    """For each block, what tells it apart beside its tokens: a cache salt, on a first block."""
    group_idx: int


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """Blocks left the cache."""

    block_hashes: list[int]
    medium: str | None
    group_idx: int


class AllBlocksCleared(msgspec.Struct, tag=True, gc=False):
    """The cache was emptied."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class Batch(msgspec.Struct, array_like=True, gc=False):
    """The events of one step."""

    ts: float
    """Unix time."""
    events: list[Event]
    data_parallel_rank: int


def encode_batch(timestamp: float, events: Iterable[engine.KVEvent]) -> bytes:
    """The payload of a message: the events of one step, in order."""
    return _encoder.encode(Batch(timestamp, list(_convert(events)), _RANK))


_encoder = msgspec.msgpack.Encoder()


def _convert(events: Iterable[engine.KVEvent]) -> Iterator[Event]:
    """The events as they are sent; blocks that continue each other are one event."""
    chain: BlockStored | None = None
    for event in events:
        if (
            chain is not None
            and isinstance(event, engine.BlockStored)
            and event.parent_block_hash is not None
            and chain.block_hashes[-1] == _short(event.parent_block_hash)
        ):
            chain.block_hashes += map(_short, event.block_hashes)
            chain.token_ids += event.token_ids
            chain.extra_keys += [None] * len(event.block_hashes)
            continue
        if chain is not None:
            yield chain
            chain = None
        match event:
            case engine.BlockStored():
                chain = _stored(event)
            case engine.BlockRemoved():
                yield BlockRemoved([_short(h) for h in event.block_hashes], _MEDIUM, _GROUP)
            case engine.AllBlocksCleared():
                yield AllBlocksCleared()
    if chain is not None:
        yield chain


def _stored(event: engine.BlockStored) -> BlockStored:
    parent, salt = event.parent_block_hash, event.cache_salt
    first = (salt.decode("utf-8", "replace"),) if salt else None
    return BlockStored(
        block_hashes=[_short(block_hash) for block_hash in event.block_hashes],
        parent_block_hash=None if parent is None else _short(parent),
        token_ids=list(event.token_ids),
        block_size=event.block_size,
        lora_id=None,
        medium=_MEDIUM,
        lora_name=None,
        extra_keys=[first, *[None] * (len(event.block_hashes) - 1)],
        group_idx=_GROUP,
    )


def _short(block_hash: bytes) -> int:
    """The last 64 bits, as vLLM shortens its hashes for subscribers."""
    return int.from_bytes(block_hash) & _HASH_BITS
