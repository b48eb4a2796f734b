"""The XGEN service: its fields, its streams, its errors."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.router.sse import EventReader

from .fakes import FakeEngine, Fleet, Seen, close_at_once, hang, reply, start_stream, stream_piece


async def complete(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """A completion of three tokens."""
    if not seen.json.get("stream"):
        body = {
            "model": "m",
            "choices": [{"index": 0, "text": " and so on", "finish_reason": "length"}],
            "usage": {"prompt_tokens": 4, "completion_tokens": 3},
        }
        return await reply(writer, 200, json.dumps(body).encode())
    await start_stream(writer)
    for text in (" and", " so", " on"):
        data = json.dumps({"choices": [{"index": 0, "text": text}]})
        await stream_piece(writer, f": alive\n\ndata: {data}\n\n".encode())
    await stream_piece(writer, b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\n')
    await stream_piece(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def engines() -> tuple[FakeEngine, FakeEngine]:
    both = FakeEngine("gpu", kind="vllm"), FakeEngine("cpu", kind="llama_cpp")
    for engine in both:
        engine.default = complete
    return both


def auto(*both: FakeEngine, **settings: object) -> Fleet:
    return Fleet(*both, router={"port": 0, "policy": "auto", "drain": 1}, **settings)


async def generate(fleet: Fleet, **body: object) -> httpx.Response:
    return await fleet.client.post("/generate", json={"prompt": "And then"} | body)


async def test_a_prompt_gets_its_text() -> None:
    gpu, cpu = engines()
    async with auto(gpu, cpu) as fleet:
        response = await generate(fleet)
        answer = response.json()
    assert response.status_code == 200
    assert answer["text"] == " and so on"
    assert answer["backend_used"] == "vllm"
    assert answer["generation_time"] > 0
    assert answer["tokens_per_second"] == pytest.approx(3 / answer["generation_time"])
    assert (answer["engine"], answer["completion_tokens"]) == ("gpu", 3)
    assert response.headers["x-stoker-engine"] == "gpu"
    [seen] = gpu.seen
    assert seen.target == "/v1/completions"
    assert seen.json == {
        "model": "m",
        "prompt": "And then",
        "max_tokens": 1024,
        "temperature": 0.7,
        "top_p": 0.9,
        "stream": False,
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"backend": "vllm"}, "vllm"),
        ({"backend": "llama_cpp"}, "llama_cpp"),
        ({"urgency": "high"}, "vllm"),
        ({"max_tokens": 2000}, "vllm"),
        ({"prompt": "word " * 101}, "vllm"),
    ],
)
async def test_the_backend_is_chosen_by_the_rules(fields: dict[str, object], expected: str) -> None:
    async with auto(*engines()) as fleet:
        assert (await generate(fleet, **fields)).json()["backend_used"] == expected


async def test_urgent_work_leaves_a_busy_gpu() -> None:
    gpu, cpu = engines()
    async with auto(gpu, cpu, engine_settings={"gpu": {"max_in_flight": 10}}) as fleet:
        leases = [fleet.handle("gpu").take(1, 1, now=0.0) for _ in range(7)]
        assert (await generate(fleet, urgency="high")).json()["backend_used"] == "llama_cpp"
        for lease in leases:
            lease.give_back(now=0.0)
        assert (await generate(fleet, urgency="high")).json()["backend_used"] == "vllm"


@pytest.mark.parametrize("path", ["/generate", "/generate/stream"])
async def test_a_stream_of_tokens(path: str) -> None:
    async with auto(*engines()) as fleet:
        response = await fleet.client.post(path, json={"prompt": "And then", "stream": True})
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-stoker-engine"] == "gpu"
    assert response.text == (
        'data: {"token":" and"}\n\ndata: {"token":" so"}\n\ndata: {"token":" on"}\n\n'
        'data: {"done":true}\n\n'
    )


async def test_a_stream_that_breaks_ends_with_its_error() -> None:
    async def half(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await start_stream(writer)
        await stream_piece(writer, b'data: {"choices": [{"text": "a"}]}\n\n')
        await asyncio.sleep(0.02)
        return False

    engine = FakeEngine("one")
    engine.default = half
    async with Fleet(engine) as fleet:
        response = await fleet.client.post("/generate/stream", json={"prompt": "x", "stream": True})
    events = [json.loads(line[6:]) for line in response.text.split("\n\n") if line]
    assert events[0] == {"token": "a"}
    assert events[1]["error"].startswith("Engine one stopped in the middle of its answer")
    assert len(events) == 2


async def test_an_engine_that_fails_is_replaced() -> None:
    gpu, cpu = engines()
    gpu.default = close_at_once
    async with auto(gpu, cpu) as fleet:
        assert (await generate(fleet)).json()["backend_used"] == "llama_cpp"


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/generate/stream", {"prompt": "x"}, "stream", "/generate/stream needs `stream: true`."),
        ("/generate", {}, "prompt", "'prompt': this field is required"),
        (
            "/generate",
            {"prompt": "x", "urgency": "asap"},
            "urgency",
            "'urgency': Input should be 'high', 'normal' or 'low'",
        ),
        (
            "/generate",
            {"prompt": "x", "max_tokens": 0},
            "max_tokens",
            "'max_tokens': Input should be greater than or equal to 1",
        ),
        (
            "/generate",
            {"prompt": "x", "tok_k": 1},
            "tok_k",
            "'tok_k': Extra inputs are not permitted",
        ),
    ],
)
async def test_a_wrong_request_is_refused(
    path: str, body: dict[str, object], param: str, message: str
) -> None:
    async with Fleet(FakeEngine("one")) as fleet:
        response = await fleet.client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["message"] == message


async def test_a_backend_that_is_not_there_is_a_400() -> None:
    async with Fleet(FakeEngine("one")) as fleet:
        response = await generate(fleet, backend="vllm")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-stoker-backend"


async def test_a_client_that_leaves_stops_the_engine() -> None:
    engine = FakeEngine("one")
    engine.default = hang
    async with Fleet(engine) as fleet:
        with pytest.raises(httpx.ReadTimeout):
            await fleet.client.post("/generate", json={"prompt": "x"}, timeout=0.2)
        await fleet.settled()
        assert engine.cancelled == 1


async def test_the_status_of_every_backend() -> None:
    gpu, cpu = engines()
    gpu.metrics = (
        'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 1.0\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="8192",'
        'kv_cache_memory_bytes="2500000000"} 1.0\n'
        "process_resident_memory_bytes 3.5e+09\n"
    )
    async with auto(gpu, cpu) as fleet:
        found = (await fleet.client.get("/models/status")).json()
    datetime.fromisoformat(found["timestamp"])
    assert set(found) == {"timestamp", "vllm", "llama_cpp"}
    assert (found["vllm"]["available"], found["vllm"]["load"]) == (True, 0.0)
    status = found["vllm"]["engines"]["gpu"]
    assert status["memory_stats"] == {
        "kv_cache_usage": 0.25,
        "num_blocks": 8192,
        "block_size": 16,
        "allocated_gb": 3.5,
        "cached_gb": 2.5,
        "running": 3,
        "waiting": 1,
    }
    assert found["vllm"]["memory_stats"] == status["memory_stats"]
    assert status["model_info"]["m"] == {
        "own_name": "m",
        "context": 8192,
        "vocabulary": None,
        "embedding_size": None,
        "layers": None,
        "size_gb": None,
    }
    assert found["llama_cpp"]["engines"]["cpu"]["memory_stats"] is None


async def test_the_model_information_of_llama_cpp() -> None:
    cpu = FakeEngine("cpu", kind="llama_cpp")
    cpu.meta = {"n_ctx": 4096, "n_vocab": 49152, "n_embd": 576, "size": 96_576_768}
    async with auto(cpu) as fleet:
        fleet.server.dispatcher.memory_of = {"cpu": 250_000_000}.get
        found = (await fleet.client.get("/models/status")).json()["llama_cpp"]
    assert found["model_info"] == {
        "m": {
            "own_name": "m",
            "context": 4096,
            "vocabulary": 49152,
            "embedding_size": 576,
            "layers": None,
            "size_gb": 0.097,
        }
    }
    assert found["memory_stats"]["allocated_gb"] == 0.25
    assert found["engines"]["cpu"]["model_info"] == found["model_info"]


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), max_size=6
    ),
    st.lists(st.integers(1, 20), min_size=1),
)
def test_events_survive_any_cut(texts: list[str], cuts: list[int]) -> None:
    stream = b"".join(b": x\r\nevent: e\ndata: " + t.encode() + b"\n\n" for t in texts)
    reader, at = EventReader(), 0
    found: list[bytes] = []
    for number in range(len(stream)):
        size = cuts[number % len(cuts)]
        found += reader.feed(stream[at : at + size])
        at += size
    assert found == [text.encode() for text in texts]


def test_an_event_without_end_takes_no_memory() -> None:
    reader = EventReader(limit=100)
    for _ in range(1000):
        assert list(reader.feed(b"data: xxxxxxxx")) == []
        assert len(reader._rest) <= 100
    assert list(reader.feed(b"\n\ndata: y\n\n"))[-1] == b"y"
