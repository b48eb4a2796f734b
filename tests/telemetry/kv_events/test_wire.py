"""What we send is what vLLM sends, to the byte."""

from __future__ import annotations

import msgspec

from stoker.engine.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEvent
from stoker.router.kv.events import Cleared, Removed, Stored, read_batch
from stoker.telemetry.kv_events.wire import encode_batch

A = bytes(24) + bytes.fromhex("1122334455667788")
B = bytes(24) + bytes.fromhex("f122334455667788")
C = b"\xff" * 24 + (3).to_bytes(8)
PARENT = b"\xaa" * 24 + (9).to_bytes(8)
EVENTS: list[KVEvent] = [
    BlockStored((A,), None, (1, 2), 2, b"salt"),
    BlockStored((B,), A, (300, 70000), 2),
    BlockStored((C,), PARENT, (5, 6), 2),
    BlockRemoved((PARENT,)),
    AllBlocksCleared(),
]
# Written by vLLM 0.32, from its own classes:
#   KVEventBatch(ts=1.5, data_parallel_rank=0, events=[
#     BlockStored(block_hashes=[0x1122334455667788, 0xF122334455667788], parent_block_hash=None,
#                 token_ids=[1, 2, 300, 70000], block_size=2, lora_id=None, medium="GPU",
#                 lora_name=None, extra_keys=[("salt",), None], group_idx=0),
#     BlockStored(block_hashes=[3], parent_block_hash=9, token_ids=[5, 6], block_size=2,
#                 lora_id=None, medium="GPU", lora_name=None, extra_keys=[None], group_idx=0),
#     BlockRemoved(block_hashes=[9], medium="GPU", group_idx=0), AllBlocksCleared()])
BY_VLLM = bytes.fromhex(
    "93cb3ff8000000000000948aa474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657392cf"
    "1122334455667788cff122334455667788b1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f69"
    "6473940102cd012cce00011170aa626c6f636b5f73697a6502a76c6f72615f6964c0a66d656469756da34750"
    "55a96c6f72615f6e616d65c0aa65787472615f6b6579739291a473616c74c0a967726f75705f696478008aa4"
    "74797065ab426c6f636b53746f726564ac626c6f636b5f6861736865739103b1706172656e745f626c6f636b"
    "5f6861736809a9746f6b656e5f696473920506aa626c6f636b5f73697a6502a76c6f72615f6964c0a66d6564"
    "69756da3475055a96c6f72615f6e616d65c0aa65787472615f6b65797391c0a967726f75705f6964780084a4"
    "74797065ac426c6f636b52656d6f766564ac626c6f636b5f6861736865739109a66d656469756da3475055a9"
    "67726f75705f6964780081a474797065b0416c6c426c6f636b73436c656172656400"
)


def test_a_batch_is_vllms_to_the_byte() -> None:
    assert encode_batch(1.5, EVENTS) == BY_VLLM


def test_the_router_reads_it() -> None:
    hashes = (0x1122334455667788, 0xF122334455667788)
    unsalted: list[KVEvent] = [BlockStored((A,), None, (1, 2), 2), *EVENTS[1:]]
    assert read_batch(encode_batch(1.5, unsalted)) == [
        Stored(hashes, None, (1, 2, 300, 70000), 2, None),
        Stored((3,), 9, (5, 6), 2, None),
        Removed((9,)),
        Cleared(),
    ]
    [salted, *_] = read_batch(BY_VLLM)
    assert salted == Stored((), None, (1, 2, 300, 70000), 2, None), "not there for other salts"


def test_blocks_that_do_not_continue_each_other_stay_apart() -> None:
    forked = encode_batch(
        0.0,
        [
            BlockStored((A,), None, (1, 2), 2),
            BlockStored((B,), A, (3, 4), 2),
            BlockStored((C,), A, (5, 6), 2),
        ],
    )
    events = msgspec.msgpack.decode(forked)[1]
    assert [event["token_ids"] for event in events] == [[1, 2, 3, 4], [5, 6]]
