"""KV cache events in vLLM's schema, in each of the forms it has had.

A message is three frames: topic, sequence number (8 bytes, big endian), payload. The payload is
MessagePack: a batch `(ts, events, data_parallel_rank)`, of events that are maps with a `type` or
lists with the type first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

BlockHash = bytes | int
_STORED = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium")
_STORED_LATER = ("lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind")
_REMOVED = ("block_hashes", "medium", "group_idx")


@dataclass(frozen=True, slots=True)
class Stored:
    """Full blocks entered the cache, each the parent of the next."""

    hashes: tuple[BlockHash, ...]
    parent: BlockHash | None
    tokens: tuple[int, ...]
    block_size: int
    lora: str | None


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks left the cache."""

    hashes: tuple[BlockHash, ...]


@dataclass(frozen=True, slots=True)
class Cleared:
    """The cache was emptied."""


Event = Stored | Removed | Cleared


def read_batch(payload: bytes) -> list[Event]:
    """The events of a payload, in order; those of kinds not known here are left out.

    Raises `ValueError` when the payload is not a batch.
    """
    try:
        batch = msgspec.msgpack.decode(payload)
        events = batch["events"] if isinstance(batch, Mapping) else batch[1]
        return list(_read_events(events))
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"not a batch of KV events ({error})") from error


def _read_events(events: Sequence[Any]) -> Iterator[Event]:
    for event in events:
        kind, fields = _open(event)
        if kind == "BlockStored" and _is_full_attention(fields):
            lora = fields.get("lora_name") or fields.get("lora_id")
            hashes = tuple(fields["block_hashes"])
            yield Stored(
                hashes=hashes[: _shared(fields.get("extra_keys"), lora, len(hashes))],
                parent=fields["parent_block_hash"],
                tokens=tuple(fields["token_ids"]),
                block_size=int(fields["block_size"]),
                lora=None if lora is None else str(lora),
            )
        elif kind == "BlockRemoved":
            yield Removed(tuple(fields["block_hashes"]))
        elif kind == "AllBlocksCleared":
            yield Cleared()


def _open(event: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(event, Mapping):
        return str(event["type"]), event
    kind, *values = event
    names = _REMOVED if kind == "BlockRemoved" else (*_STORED, *_STORED_LATER)
    return str(kind), dict(zip(names, values, strict=False))


def _shared(extra_keys: Any, lora: Any, count: int) -> int:
    """How many of the first of `count` blocks any prompt with their tokens can use: those before
    one that belongs to a cache salt, or to an image."""
    for number, keys in enumerate(extra_keys or ()):
        if any(key != lora for key in keys or ()):
            return number
    return count


def _is_full_attention(fields: Mapping[str, Any]) -> bool:
    """Blocks of sliding windows and of recurrent states do not say that a prefix is there."""
    kind = fields.get("kv_cache_spec_kind")
    return kind is None or "full" in str(kind).lower()
