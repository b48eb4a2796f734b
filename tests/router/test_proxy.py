"""The way of a request through the router and back, by the client people use."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import openai
import pytest

from .fakes import (
    CHAT,
    Behaviour,
    FakeEngine,
    Fleet,
    Seen,
    answer,
    chunk,
    close_after_head,
    close_at_once,
    close_in_body,
    close_in_event,
    close_in_stream,
    garbage,
    hang,
    hang_in_stream,
    slow,
    start_stream,
    status,
    stream_piece,
    until,
)


async def ask(fleet: Fleet) -> str:
    answer = await fleet.sdk.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}]
    )
    return answer.choices[0].message.content or ""


async def test_the_openai_sdk_gets_its_answer(fleet: Fleet) -> None:
    assert await ask(fleet) in ("engine one here", "engine two here")
    assert fleet.in_flight() == {"one": 0, "two": 0}


async def test_requests_alternate_between_quiet_engines(fleet: Fleet) -> None:
    answers = Counter([await ask(fleet) for _ in range(6)])
    assert answers == {"engine one here": 3, "engine two here": 3}


async def test_a_stream_arrives_in_pieces(fleet: Fleet) -> None:
    stream = await fleet.sdk.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    words = [part.choices[0].delta.content async for part in stream]
    assert words[0] == "engine"
    assert words[2] == "here"
    await fleet.settled()
    assert fleet.in_flight() == {"one": 0, "two": 0}


async def test_a_stream_passes_byte_for_byte(fleet: Fleet) -> None:
    response = await fleet.post(CHAT | {"stream": True})
    name = response.headers["x-stoker-engine"]
    expected = b"".join(chunk(word) for word in ("engine", name, "here")) + b"data: [DONE]\n\n"
    assert response.content == expected


async def test_the_body_reaches_the_engine_unchanged(fleet: Fleet) -> None:
    body = b'{ "model":"m",  "messages": [], "unknown": {"a": 1.50, "b": [null]}, "seed": 1e3 }'
    response = await fleet.client.post("/v1/chat/completions", content=body)
    assert response.status_code == 200
    [seen] = [seen for engine in fleet.engines for seen in engine.seen]
    assert seen.body == body


async def test_headers_on_every_response(fleet: Fleet) -> None:
    good = await fleet.post(None, **{"x-request-id": "mine-1"})
    bad = await fleet.client.post("/v1/chat/completions", content=b"{")
    own = await fleet.client.get("/v1/models")
    assert good.headers["x-request-id"] == "mine-1"
    assert good.headers["x-stoker-engine"] in ("one", "two")
    assert good.headers["x-stoker-reason"] == "least_in_flight: 0 of 64"
    for response in (bad, own):
        assert response.headers["x-request-id"].startswith("req-")
        assert response.headers["x-stoker-engine"] == "-"
        assert response.headers["x-stoker-reason"]


@pytest.mark.parametrize(
    "fault",
    [
        close_at_once,
        garbage,
        close_in_body,
        close_after_head,
        status(500),
        status(503),
        status(429),
    ],
    ids=["closes", "garbage", "half a body", "empty stream", "500", "503", "429"],
)
async def test_a_fault_before_the_first_byte_is_tried_elsewhere(
    fleet: Fleet, fault: Behaviour
) -> None:
    one = fleet.engines[0]
    one.default = fault
    assert [await ask(fleet) for _ in range(4)] == ["engine two here"] * 4
    assert one.seen, "the faulty engine was never tried"
    assert fleet.in_flight() == {"one": 0, "two": 0}


@pytest.mark.parametrize("fault", [close_after_head, close_in_event])
async def test_a_stream_that_breaks_before_its_first_whole_event_is_tried_elsewhere(
    fleet: Fleet, fault: Behaviour
) -> None:
    one = fleet.engines[0]
    one.default = fault
    for _ in range(4):
        response = await fleet.post(CHAT | {"stream": True})
        assert response.headers["x-stoker-engine"] == "two"
        words = b"".join(chunk(word) for word in ("engine", "two", "here"))
        assert response.content == words + b"data: [DONE]\n\n"
    assert one.seen, "the faulty engine was never tried"
    assert fleet.in_flight() == {"one": 0, "two": 0}


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
async def test_a_first_event_in_pieces_arrives_whole(fleet: Fleet, end: bytes) -> None:
    async def in_pieces(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await start_stream(writer)
        for byte in b"data: 1" + end:
            await stream_piece(writer, bytes([byte]))
            await asyncio.sleep(0.001)
        await asyncio.Event().wait()  # it passes without more to follow
        return False

    for engine in fleet.engines:
        engine.default = in_pieces
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    async with fleet.client.stream("POST", "/v1/chat/completions", json=body) as response:
        read = b""
        async for piece in response.aiter_raw():
            read += piece
            if read == b"data: 1" + end:
                break
    await fleet.settled()


async def test_the_last_error_is_passed_on_when_all_fail(fleet: Fleet) -> None:
    for engine in fleet.engines:
        engine.default = status(500)
    response = await fleet.post()
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "fake 500"
    assert [len(engine.seen) for engine in fleet.engines] == [2, 2]


async def test_a_400_is_the_clients_own_and_not_tried_again(fleet: Fleet) -> None:
    for engine in fleet.engines:
        engine.default = status(400)
    with pytest.raises(openai.BadRequestError, match="fake 400"):
        await fleet.sdk.chat.completions.create(model="m", messages=[])
    assert sum(len(engine.seen) for engine in fleet.engines) == 1


async def test_an_engine_killed_before_it_answers_costs_nothing(fleet: Fleet) -> None:
    one = fleet.engines[0]
    one.default = hang
    asks = [asyncio.create_task(ask(fleet)) for _ in range(6)]
    await until(lambda: one.in_flight == 3)
    await one.kill()
    assert await asyncio.gather(*asks) == ["engine two here"] * 6
    assert fleet.in_flight() == {"one": 0, "two": 0}


async def test_a_dead_engine_gets_no_traffic_and_comes_back(fleet: Fleet) -> None:
    one = fleet.engines[0]
    await one.kill()
    assert [await ask(fleet) for _ in range(4)] == ["engine two here"] * 4
    await one.start()
    loop = asyncio.get_running_loop()
    await until(lambda: fleet.handle("one").trusted(loop.time()))
    assert {await ask(fleet) for _ in range(4)} == {"engine one here", "engine two here"}


async def test_a_stopped_engine_is_found_by_its_probes(fleet: Fleet) -> None:
    """It accepts connections and says nothing, like a process stopped by a signal."""
    one = fleet.engines[0]
    one.default = hang
    asks = [asyncio.create_task(ask(fleet)) for _ in range(4)]
    await until(lambda: one.in_flight == 2)
    one.healthy = False
    async with asyncio.timeout(10):
        assert await asyncio.gather(*asks) == ["engine two here"] * 4
    assert one.cancelled == 2


@pytest.mark.parametrize("fault", [close_in_stream, hang_in_stream], ids=["closes", "hangs"])
async def test_a_stream_that_breaks_off_ends_with_a_clear_error(fault: Behaviour) -> None:
    engine = FakeEngine("one")
    engine.default = fault
    async with Fleet(engine, timeouts={"idle": 0.2}) as fleet:
        stream = await fleet.sdk.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert (await anext(stream)).choices[0].delta.content == "begun"
        with pytest.raises(openai.APIError, match="Engine one stopped in the middle of its answer"):
            await anext(stream)
        assert len(engine.seen) == 1
        await fleet.settled()
        assert fleet.in_flight() == {"one": 0}


async def test_no_first_byte_in_time_is_a_504() -> None:
    engine = FakeEngine("one")
    engine.default = hang
    settings = {
        "timeouts": {"first_byte": 0.6},
        "retries": {"attempts": 2, "backoff": 0.001},
        "health": {"interval": 60, "timeout": 30},  # a late probe must not move the request
    }
    async with Fleet(engine, **settings) as fleet:
        response = await fleet.post()
        assert response.status_code == 504
        assert response.json()["error"] == {
            "message": "No answer in 2 attempts; engine one: no answer in time.",
            "type": "timeout_error",
            "param": None,
            "code": "engine_timeout",
        }
        assert response.headers["x-stoker-engine"] == "one"
        await fleet.settled()
        assert (len(engine.seen), engine.cancelled) == (2, 2)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_engine(fleet: Fleet, stream: bool) -> None:
    one, two = fleet.engines
    one.default = two.default = hang_in_stream if stream else hang
    with pytest.raises(httpx.ReadTimeout):
        await fleet.client.post("/v1/chat/completions", json=CHAT | {"stream": stream}, timeout=0.2)
    await fleet.settled()
    assert one.cancelled + two.cancelled == 1
    assert len(one.seen) + len(two.seen) == 1
    assert fleet.in_flight() == {"one": 0, "two": 0}


async def test_retries_stop_when_the_budget_is_spent() -> None:
    one, two = FakeEngine("one"), FakeEngine("two")
    one.default = two.default = status(500)
    async with Fleet(one, two, retries={"budget": 0}) as fleet:
        response = await fleet.post()
    assert response.status_code == 500
    assert len(one.seen) + len(two.seen) == 1


async def test_retry_after_keeps_traffic_away_from_the_engine(fleet: Fleet) -> None:
    one = fleet.engines[0]
    one.script.append(status(429, {"retry-after": "60"}))
    assert [await ask(fleet) for _ in range(6)] == ["engine two here"] * 6
    assert len(one.seen) == 1


async def test_an_engine_that_closes_idle_connections_costs_nothing() -> None:
    """The race every keep-alive client has: the connection dies as the request is sent."""

    async def answer_and_close(
        engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter
    ) -> bool:
        await answer(engine, seen, writer)
        return False

    engine = FakeEngine("one")
    engine.default = answer_and_close
    async with Fleet(engine, retries={"attempts": 1}) as fleet:
        assert [await ask(fleet) for _ in range(5)] == ["engine one here"] * 5


async def test_connections_to_engines_are_used_again() -> None:
    engine = FakeEngine("one")
    async with Fleet(engine, health={"interval": 60}) as fleet:
        before = engine.connections
        for _ in range(10):
            await ask(fleet)
        assert engine.connections == before + 1


async def test_the_models_of_all_engines() -> None:
    one, two = FakeEngine("one", models=("a", "b")), FakeEngine("two", models=("b", "c"))
    aliases = {"gpt": "c"}
    async with Fleet(one, two, aliases=aliases) as fleet:
        assert [model.id async for model in fleet.sdk.models.list()] == ["a", "b", "c", "gpt"]
        assert (await fleet.sdk.models.retrieve("gpt")).to_dict()["root"] == "c"
        for name, expected in (("a", "one"), ("c", "two"), ("gpt", "two")):
            raw = await fleet.sdk.chat.completions.with_raw_response.create(model=name, messages=[])
            assert raw.headers["x-stoker-engine"] == expected
        assert two.seen[-1].json["model"] == "c"
        with pytest.raises(openai.NotFoundError) as caught:
            await fleet.sdk.chat.completions.create(model="d", messages=[])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "a, b, c, gpt" in caught.value.message


async def test_an_engines_own_name_for_a_model() -> None:
    engine = FakeEngine("one", models=("/models/m.gguf",))
    settings = {"one": {"models": {"small": "/models/m.gguf"}, "api_key": "secret"}}
    async with Fleet(engine, engine_settings=settings) as fleet:
        body = b'{"model":"small","messages":[],"x":1.50}'
        headers = {"authorization": "Bearer client"}
        await fleet.client.post("/v1/chat/completions", content=body, headers=headers)
    assert engine.seen[0].body == b'{"model":"/models/m.gguf","messages":[],"x":1.50}'
    assert engine.seen[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"{", None), (b"[]", None), (b'{"model": 5}', "model"), (b'\xff{"model":"m"}', None)],
)
async def test_a_body_that_cannot_be_read_is_refused(
    fleet: Fleet, body: bytes, param: str | None
) -> None:
    response = await fleet.client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == param
    assert not any(engine.seen for engine in fleet.engines)


async def test_health_and_readiness_tell_the_truth() -> None:
    settings = {"max_wait": 0.05}
    engines = FakeEngine("one"), FakeEngine("two")
    async with Fleet(*engines, admission=settings) as fleet:
        assert (await fleet.client.get("/ready")).json() == {"ready": True, "models": {"m": True}}
        for engine in fleet.engines:
            await engine.kill()
        await until(lambda: not any(fleet.handle(n).health.healthy for n in ("one", "two")))
        assert (await fleet.client.get("/ready")).json() == {"ready": False, "models": {"m": False}}
        health = await fleet.client.get("/health")
        assert health.status_code == 200
        assert {e["healthy"] for e in health.json()["engines"].values()} == {False}
        response = await fleet.post()
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "no_engine_available"


async def test_draining_finishes_what_is_under_way(fleet: Fleet) -> None:
    for engine in fleet.engines:
        engine.default = slow(0.3)
    asked = asyncio.create_task(ask(fleet))
    await until(lambda: bool(fleet.server.dispatcher.active))
    await fleet.server.stop()
    assert (await asked).endswith("here")


async def test_a_model_no_engine_has_told_of_yet_is_a_503() -> None:
    known, silent = FakeEngine("known"), FakeEngine("silent", models=("later",))
    silent.healthy = False
    async with Fleet(known, silent) as fleet:
        early = await fleet.post(CHAT | {"model": "later"})
        assert early.status_code == 503
        assert early.json()["error"]["code"] == "model_not_known_yet"
        silent.healthy = True
        await until(lambda: fleet.handle("silent").health.healthy)
        assert (await fleet.post(CHAT | {"model": "later"})).status_code == 200


async def test_a_backend_can_be_asked_for_by_kind_or_name() -> None:
    engines = FakeEngine("a", kind="vllm"), FakeEngine("b", kind="llama_cpp")
    async with Fleet(*engines) as fleet:
        for backend, expected in (("vllm", "a"), ("llama_cpp", "b"), ("b", "b")):
            for _ in range(3):
                response = await fleet.post(**{"x-stoker-backend": backend})
                assert response.headers["x-stoker-engine"] == expected
        wrong = await fleet.post(**{"x-stoker-backend": "native"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["message"] == (
        "No engine of this model is a 'native': the header x-stoker-backend may be auto, "
        "a, b, llama_cpp, vllm."
    )


async def test_a_stored_response_is_found_on_the_engine_that_keeps_it() -> None:
    engines = tuple(FakeEngine(name) for name in ("one", "two", "three"))

    async def keep(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        known = f"resp_{engine.name}" in seen.target + seen.body.decode()
        return await (answer if known else status(404))(engine, seen, writer)

    for engine in engines:
        engine.default = keep
    async with Fleet(*engines) as fleet:
        for name in ("one", "two", "three"):
            found = await fleet.client.get(f"/v1/responses/resp_{name}")
            assert (found.status_code, found.headers["x-stoker-engine"]) == (200, name)
            body = {"model": "m", "input": "x", "previous_response_id": f"resp_{name}"}
            found = await fleet.client.post("/v1/responses", json=body)
            assert (found.status_code, found.headers["x-stoker-engine"]) == (200, name)
        for engine in engines:
            engine.seen.clear()
        lost = await fleet.client.delete("/v1/responses/resp_four")
        assert lost.status_code == 404
        assert [len(engine.seen) for engine in engines] == [1, 1, 1]
        assert fleet.in_flight() == {"one": 0, "two": 0, "three": 0}
