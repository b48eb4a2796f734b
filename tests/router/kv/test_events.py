"""The forms in which engines write their KV events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stoker.router.kv.events import Cleared, Removed, Stored, read_batch

STORED = {
    "type": "BlockStored",
    "block_hashes": [b"a", b"b"],
    "parent_block_hash": None,
    "token_ids": [1, 2, 3, 4],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": "l",
}
EXPECTED = [Stored((b"a", b"b"), None, (1, 2, 3, 4), 2, "l"), Removed((b"a",)), Cleared()]


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(
            {
                "ts": 1.0,
                "events": [
                    STORED,
                    {"type": "BlockRemoved", "block_hashes": [b"a"], "medium": None},
                    {"type": "AllBlocksCleared"},
                ],
                "data_parallel_rank": 0,
            },
            id="maps",
        ),
        pytest.param(
            [
                1.0,
                [
                    STORED,
                    {"type": "BlockRemoved", "block_hashes": [b"a"], "medium": None},
                    {"type": "AllBlocksCleared"},
                ],
            ],
            id="maps in a list",
        ),
        pytest.param(
            [
                1.0,
                [
                    ["BlockStored", [b"a", b"b"], None, [1, 2, 3, 4], 2, None, "GPU", "l"],
                    ["BlockRemoved", [b"a"], None],
                    ["AllBlocksCleared"],
                ],
                0,
            ],
            id="lists",
        ),
    ],
)
def test_every_form_is_read(batch: Any) -> None:
    assert read_batch(msgspec.msgpack.encode(batch)) == EXPECTED


def test_numbers_are_hashes_too_and_old_lora_ids_names() -> None:
    event = ["BlockStored", [7], 5, [1, 2], 2, 3]
    [stored] = read_batch(msgspec.msgpack.encode([1.0, [event]]))
    assert stored == Stored((7,), 5, (1, 2), 2, "3")


def test_sliding_windows_and_unknown_events_are_left_out() -> None:
    window = STORED | {"kv_cache_spec_kind": "sliding_window"}
    full = STORED | {"kv_cache_spec_kind": "full_attention"}
    events = [window, {"type": "SomethingNew", "x": 1}, full]
    assert read_batch(msgspec.msgpack.encode([1.0, events])) == EXPECTED[:1]


def test_blocks_of_one_salt_or_of_an_image_are_not_there_for_others() -> None:
    keyed = STORED | {"extra_keys": [["l"], ["l", ["image", 0]]]}
    salted = STORED | {"extra_keys": [["l", "salt"], ["l"]]}
    found = read_batch(msgspec.msgpack.encode([1.0, [keyed, salted]]))
    assert [event.hashes for event in found if isinstance(event, Stored)] == [(b"a",), ()]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        msgspec.msgpack.encode(5),
        msgspec.msgpack.encode([1.0, [[]]]),
        msgspec.msgpack.encode([1.0, [{"type": "BlockStored"}]]),
    ],
)
def test_what_is_no_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a batch of KV events"):
        read_batch(payload)
