"""Files and batches as clients of OpenAI use them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from tests.router.fakes import FakeEngine, Fleet, after, hang, status, until

from .lines import ENDPOINT, echo, finished, jsonl, line, questions, read, start_batch


@pytest_asyncio.fixture
async def fleet(database_url: str) -> AsyncIterator[Fleet]:
    """One engine and a router with a database of its own."""
    engine = FakeEngine("one")
    engine.default = echo()
    async with Fleet(engine, storage={"url": database_url}) as fleet:
        yield fleet


async def test_a_batch_from_file_to_file(fleet: Fleet) -> None:
    lines = [line(number) for number in range(30)]
    created = await start_batch(fleet.sdk, jsonl(*lines), metadata={"for": "tests ü"})
    assert created.status == "validating"
    assert created.expires_at == created.created_at + 86400
    batch = await finished(fleet.sdk, created)
    assert batch.status == "completed"
    assert batch.metadata == {"for": "tests ü"}
    assert batch.model == "m"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 30, "completed": 30, "failed": 0}
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (210, 60)
    assert batch.in_progress_at
    assert batch.finalizing_at
    assert batch.completed_at
    assert batch.error_file_id is None
    output = await read(fleet.sdk, batch.output_file_id)
    assert [one["custom_id"] for one in output] == [f"c{number}" for number in range(30)]
    assert len({one["id"] for one in output}) == 30
    for number, one in enumerate(output):
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        content = one["response"]["body"]["choices"][0]["message"]["content"]
        assert content == f"answer to question {number}"
    assert set(questions(fleet.engines[0]).values()) == {1}
    assert batch.output_file_id is not None
    file = await fleet.sdk.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")


async def test_each_wrong_line_is_named(fleet: Fleet) -> None:
    bad = [
        line(1),
        line(2, model="unknown"),
        line(1),
        line(4) | {"url": "/v1/embeddings"},
        line(5, stream=True),
    ]
    content = jsonl(*bad) + b"not json\n"
    batch = await finished(fleet.sdk, await start_batch(fleet.sdk, content))
    assert batch.status == "failed"
    assert batch.failed_at
    assert batch.errors is not None
    assert [(error.line, error.code) for error in batch.errors.data or []] == [
        (2, "model_not_found"),
        (3, "duplicate_custom_id"),
        (4, "mismatched_url"),
        (5, "invalid_body"),
        (6, "invalid_json_line"),
    ]
    assert fleet.engines[0].seen == []


async def test_an_empty_file_and_one_too_long(database_url: str) -> None:
    settings = {"url": database_url}
    async with Fleet(FakeEngine("one"), storage=settings, batches={"max_lines": 2}) as fleet:
        for content, code in (
            (b"\n", "empty_file"),
            (jsonl(*map(line, range(3))), "too_many_tasks"),
        ):
            batch = await finished(fleet.sdk, await start_batch(fleet.sdk, content))
            assert batch.errors is not None
            assert [error.code for error in batch.errors.data or []] == [code]


async def test_answers_that_are_errors_go_to_the_error_file(fleet: Fleet) -> None:
    [engine] = fleet.engines
    engine.script.extend([status(400), status(429), status(503)])
    batch = await finished(fleet.sdk, await start_batch(fleet.sdk, jsonl(*map(line, range(3)))))
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
    [failed] = await read(fleet.sdk, batch.error_file_id)
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["message"] == "fake 400"
    assert len(await read(fleet.sdk, batch.output_file_id)) == 2
    assert len(engine.seen) == 5  # refusals for now are no answers


async def test_a_line_that_breaks_engines_is_given_up(fleet: Fleet) -> None:
    [engine] = fleet.engines
    engine.default = status(500)
    batch = await finished(fleet.sdk, await start_batch(fleet.sdk, jsonl(line(1))))
    [failed] = await read(fleet.sdk, batch.error_file_id)
    assert failed["response"]["status_code"] == 500
    assert len(engine.seen) == 4


async def test_cancelling_keeps_what_is_answered(fleet: Fleet) -> None:
    [engine] = fleet.engines
    engine.script.extend([echo()] * 3)
    engine.default = hang
    batch = await start_batch(fleet.sdk, jsonl(*map(line, range(100))))
    await until(lambda: engine.in_flight > 10, 60)
    await until(lambda: fleet.server.dispatcher.metrics.batches.lines["completed"] == 3, 60)
    assert (await fleet.sdk.batches.cancel(batch.id)).status == "cancelling"
    batch = await finished(fleet.sdk, batch)
    assert batch.status == "cancelled"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 100, "completed": 3, "failed": 97}
    assert len(await read(fleet.sdk, batch.output_file_id)) == 3
    errors = await read(fleet.sdk, batch.error_file_id)
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    await until(lambda: engine.in_flight == 0)
    assert fleet.in_flight() == {"one": 0}
    engine.default = echo()
    done = await finished(fleet.sdk, await start_batch(fleet.sdk, jsonl(line(1))))
    with pytest.raises(openai.ConflictError, match="so it cannot be cancelled"):
        await fleet.sdk.batches.cancel(done.id)


async def test_a_batch_expires(fleet: Fleet) -> None:
    [engine] = fleet.engines
    engine.script.append(echo())
    engine.default = hang
    batch = await start_batch(fleet.sdk, jsonl(*map(line, range(5))), completion_window="1s")
    batch = await finished(fleet.sdk, batch)
    assert batch.status == "expired"
    assert batch.expired_at
    assert len(await read(fleet.sdk, batch.output_file_id)) == 1
    errors = await read(fleet.sdk, batch.error_file_id)
    assert [one["error"]["code"] for one in errors] == ["batch_expired"] * 4


async def test_interactive_requests_come_first(database_url: str) -> None:
    engine = FakeEngine("one")
    release = asyncio.Event()
    engine.default = after(release)
    async with Fleet(
        engine,
        storage={"url": database_url},
        batches={"share": 0.5},
        engine_settings={"one": {"max_in_flight": 8}},
    ) as fleet:
        batch = await start_batch(fleet.sdk, jsonl(*map(line, range(50))))
        await until(lambda: engine.in_flight == 4, 60)
        people = [asyncio.ensure_future(fleet.post()) for _ in range(4)]
        await until(lambda: engine.in_flight == 8, 60)  # they found room at once
        release.set()
        assert {(await one).status_code for one in people} == {200}
        assert (await finished(fleet.sdk, batch)).status == "completed"
        await fleet.settled()
        metrics = (await fleet.client.get("/metrics")).text
    assert 'stoker_router_batch_lines_total{outcome="completed"} 50.0' in metrics
    assert 'stoker_router_batch_finished_total{status="completed"} 1.0' in metrics
    assert "stoker_router_batch_lines_in_flight 0.0" in metrics


async def test_lists_are_paged(fleet: Fleet) -> None:
    made = [await start_batch(fleet.sdk, jsonl(line(number))) for number in range(5)]
    listed = [batch.id async for batch in fleet.sdk.batches.list(limit=2)]
    assert listed == [batch.id for batch in reversed(made)]
    files = [file.id async for file in fleet.sdk.files.list(purpose="batch", limit=2, order="asc")]
    assert files == [batch.input_file_id for batch in made]
    with pytest.raises(openai.BadRequestError, match="limit"):
        await fleet.sdk.batches.list(limit=101)


async def test_what_cannot_be_created(fleet: Fleet) -> None:
    file = await fleet.sdk.files.create(file=b"x", purpose="user_data")
    for fields, message in (
        ({"input_file_id": "file-none"}, "no file with the id"),
        ({"input_file_id": file.id}, "purpose 'batch'"),
        ({"endpoint": "/v1/nothing"}, "endpoint"),
        ({"completion_window": "soon"}, "such as 30m, 24h or 7d"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
    ):
        body = {"input_file_id": "f", "endpoint": ENDPOINT, "completion_window": "24h"} | fields
        response = await fleet.client.post("/v1/batches", json=body)
        assert response.status_code in (400, 404)
        assert message in json.dumps(response.json())
    with pytest.raises(openai.NotFoundError, match="no batch with the id"):
        await fleet.sdk.batches.retrieve("batch_none")


async def test_the_input_may_be_deleted_while_the_batch_runs(fleet: Fleet) -> None:
    [engine] = fleet.engines
    release = asyncio.Event()
    engine.default = after(release)
    batch = await start_batch(fleet.sdk, jsonl(*map(line, range(3))))
    await until(lambda: engine.in_flight == 3, 60)
    assert (await fleet.sdk.files.delete(batch.input_file_id)).deleted
    release.set()
    batch = await finished(fleet.sdk, batch)
    assert len(await read(fleet.sdk, batch.output_file_id)) == 3


async def test_a_large_file_comes_back_as_it_was(fleet: Fleet) -> None:
    content = os.urandom(5_000_000) + b"\r\n--no boundary\r\n"
    file = await fleet.sdk.files.create(file=("ünï.bin", content), purpose="user_data")
    assert (file.bytes, file.filename, file.expires_at) == (len(content), "ünï.bin", None)
    assert (await fleet.sdk.files.content(file.id)).content == content
    assert (await fleet.sdk.files.retrieve(file.id)).id == file.id
    assert (await fleet.sdk.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await fleet.sdk.files.content(file.id)


async def test_files_expire(fleet: Fleet) -> None:
    batch_file = await fleet.sdk.files.create(file=b"x", purpose="batch")
    assert batch_file.expires_at == batch_file.created_at + 30 * 86400
    file = await fleet.sdk.files.create(
        file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    database = fleet.server.database
    await database.write(lambda tx: tx.execute("UPDATE files SET expires_at = 1"))
    with pytest.raises(openai.NotFoundError):
        await fleet.sdk.files.retrieve(file.id)
    assert (await fleet.sdk.files.list()).data == []


BOUNDARY = "multipart/form-data; boundary=xx"


def form(*parts: tuple[str, bytes], end: bytes = b"--xx--\r\n") -> bytes:
    body = b"".join(
        b"--xx\r\ncontent-disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), data)
        for head, data in parts
    )
    return body + end


PURPOSE = ('name="purpose"', b"batch")
FILE = ('name="file"; filename="a"', b"data")


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"{}", "application/json", "multipart/form-data with a boundary"),
        (b"nothing like it", BOUNDARY, "not a form"),
        (form(PURPOSE), BOUNDARY, "no 'file'"),
        (form(FILE), BOUNDARY, "purpose"),
        (form(('name="purpose"', b"mischief"), FILE), BOUNDARY, "purpose"),
        (form(PURPOSE, FILE, FILE), BOUNDARY, "two files"),
        (form(PURPOSE, PURPOSE, FILE), BOUNDARY, "twice"),
        (form(('name="purpose"', b"x" * 2000), FILE), BOUNDARY, "too long"),
        (form(PURPOSE, FILE, ('name="more"', b"x")), BOUNDARY, "more"),
        (form(PURPOSE, FILE, end=b""), BOUNDARY, "ends before its last boundary"),
    ],
)
async def test_uploads_that_are_wrong(
    fleet: Fleet, body: bytes, content_type: str, message: str
) -> None:
    headers = {"content-type": content_type}
    response = await fleet.client.post("/v1/files", content=body, headers=headers)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
    await _until_rows(fleet, 0)


async def test_a_file_too_large(database_url: str) -> None:
    storage, limits = {"url": database_url}, {"file_limit": 3_000_000}
    async with Fleet(FakeEngine("one"), storage=storage, batches=limits) as fleet:

        async def body() -> AsyncIterator[bytes]:
            yield form(PURPOSE, end=b"")
            yield b'--xx\r\ncontent-disposition: form-data; name="file"\r\n\r\n'
            for _ in range(4):
                yield bytes(1_000_000)

        headers = {"content-type": BOUNDARY}
        response = await fleet.client.post("/v1/files", content=body(), headers=headers)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "file_too_large"
        await _until_rows(fleet, 0)


async def test_files_together_have_a_limit(database_url: str) -> None:
    keys = {name: f"sk-{name}-{'x' * 32}" for name in ("ann", "bob")}
    settings = {
        "storage": {"url": database_url},
        "batches": {"storage_limit": 5_000_000, "storage_limit_per_key": 3_000_000},
        "keys": [
            {"name": name, "hash": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"}
            for name, key in keys.items()
        ],
    }

    async with Fleet(FakeEngine("one"), **settings) as fleet:

        async def upload(name: str, size: int) -> str:
            sdk = fleet.sdk.with_options(api_key=keys[name])
            return (await sdk.files.create(file=("f", bytes(size)), purpose="user_data")).id

        first = await upload("ann", 2_000_000)
        with pytest.raises(openai.APIStatusError) as refused:
            await upload("ann", 1_500_000)
        assert refused.value.status_code == 413
        assert refused.value.code == "storage_limit_exceeded"
        assert "the files of the key 'ann' may be 3000000 bytes" in refused.value.message
        await upload("bob", 3_000_000)
        with pytest.raises(openai.APIStatusError, match="all files together may be 5000000"):
            await upload("ann", 1)
        await fleet.sdk.with_options(api_key=keys["ann"]).files.delete(first)
        await upload("ann", 2_000_000)
        await _until_rows(fleet, 2)


async def test_a_client_that_leaves_in_its_upload(fleet: Fleet) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", fleet.server.port)
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: {BOUNDARY}\r\n"
    writer.write(f"{head}content-length: 9000000\r\n\r\n".encode() + form(PURPOSE, end=b""))
    writer.write(b'--xx\r\ncontent-disposition: form-data; name="file"\r\n\r\n' + bytes(3_000_000))
    await writer.drain()
    await _until_rows(fleet, 1)
    writer.transport.abort()
    await _until_rows(fleet, 0)


async def _rows(fleet: Fleet) -> int:
    try:
        row = await fleet.server.database.read(lambda tx: tx.row("SELECT COUNT(*) FROM files"))
    except Exception:
        return 0  # no tables yet
    assert row is not None
    return int(row[0])


async def _until_rows(fleet: Fleet, count: int) -> None:
    async with asyncio.timeout(60):
        while await _rows(fleet) != count:  # noqa: ASYNC110  (another connection changes it)
            await asyncio.sleep(0.02)


async def test_routes_that_are_not_there(fleet: Fleet) -> None:
    for method, path, code in (
        ("PUT", "/v1/files", 405),
        ("POST", "/v1/files/x", 405),
        ("GET", "/v1/files/x/more", 404),
        ("GET", "/v1/batches/x/cancel", 405),
        ("GET", "/v1/batches/x", 404),
    ):
        assert (await fleet.client.request(method, path)).status_code == code, path


async def test_each_key_sees_its_own(database_url: str) -> None:
    keys = {name: f"sk-{name}-{'x' * 32}" for name in ("ann", "bob")}
    hashes = [
        {"name": name, "hash": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"}
        for name, key in keys.items()
    ]
    engine = FakeEngine("one")
    engine.default = echo()
    async with Fleet(engine, storage={"url": database_url}, keys=hashes) as fleet:
        ann, bob = (fleet.sdk.with_options(api_key=key) for key in keys.values())
        batch = await finished(ann, await start_batch(ann, jsonl(line(1))))
        assert batch.status == "completed"
        assert len(await read(ann, batch.output_file_id)) == 1
        assert (await bob.files.list()).data == []
        assert (await bob.batches.list()).data == []
        for refused in (
            bob.batches.retrieve(batch.id),
            bob.batches.cancel(batch.id),
            bob.files.content(batch.output_file_id or ""),
            bob.files.delete(batch.input_file_id),
            bob.batches.create(
                input_file_id=batch.input_file_id,
                endpoint=ENDPOINT,
                completion_window="24h",
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                await refused
        nobody = fleet.sdk.with_options(api_key="sk-unknown")
        with pytest.raises(openai.AuthenticationError):
            await nobody.files.create(file=b"x", purpose="batch")
