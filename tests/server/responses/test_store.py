"""What the store keeps, and for how long."""

from __future__ import annotations

from stoker.api.response_items import MessageItem
from stoker.api.responses import Reasoning, ResponseResource
from stoker.server.responses.store import ResponseStore, StoredResponse


def stored(name: str, text: str = "") -> StoredResponse:
    response = ResponseResource(
        id=name,
        created_at=0,
        status="completed",
        model="m",
        instructions=None,
        previous_response_id=None,
        max_output_tokens=None,
        max_tool_calls=None,
        temperature=1,
        top_p=1,
        presence_penalty=0,
        frequency_penalty=0,
        top_logprobs=0,
        parallel_tool_calls=True,
        tools=[],
        tool_choice="auto",
        text={},
        reasoning=Reasoning(),
        store=True,
        background=False,
        metadata={},
        safety_identifier=None,
        prompt_cache_key=None,
    )
    return StoredResponse(response, [MessageItem(role="user", content=text)])


SIZE = stored("a").size


def test_the_oldest_make_room_for_new_ones() -> None:
    store = ResponseStore(max_bytes=3 * SIZE, lifetime=10)
    for name in "abc":
        store.put(stored(name))
    assert (len(store), store.size) == (3, 3 * SIZE)
    store.put(stored("a"))
    store.put(stored("d"))
    assert [name for name in "abcd" if store.get(name)] == ["a", "c", "d"]
    assert store.size == 3 * SIZE


def test_the_input_counts() -> None:
    assert stored("a", "x" * 1000).size == SIZE + 1000
    store = ResponseStore(max_bytes=3 * SIZE, lifetime=10)
    store.put(stored("a"))
    store.put(stored("b", "x" * 3 * SIZE))
    assert (len(store), store.size) == (0, 0)


def test_responses_expire() -> None:
    now = 0.0
    store = ResponseStore(max_bytes=10 * SIZE, lifetime=10, clock=lambda: now)
    store.put(stored("a"))
    now = 5.0
    store.put(stored("b"))
    now = 10.0
    assert store.get("a") is None
    assert store.get("b") is not None
    assert store.size == SIZE


def test_removing() -> None:
    store = ResponseStore(max_bytes=10 * SIZE, lifetime=10)
    store.put(stored("a"))
    store.remove("a")
    store.remove("a")
    assert (len(store), store.size) == (0, 0)
