"""Each way a batch file's line can be wrong, with its number, code and field."""

from __future__ import annotations

import json

import pytest

from stoker.api.batch_lines import (
    BatchLine,
    LineError,
    LineResponse,
    OutputLine,
    read_lines,
)

CHAT = "/v1/chat/completions"


def line(custom_id: object = "a", **changes: object) -> bytes:
    """A right line, changed; a field set to `...` is left out."""
    value = {
        "custom_id": custom_id,
        "method": "POST",
        "url": CHAT,
        "body": {"model": "m", "messages": []},
        **changes,
    }
    return json.dumps({k: v for k, v in value.items() if v is not ...}).encode() + b"\n"


def test_right_lines_come_as_they_stand() -> None:
    found = list(read_lines([line("a"), b"\n", line("b", url="/v1/completions"), b"  "]))
    assert found == [
        BatchLine(1, "a", CHAT, {"model": "m", "messages": []}),
        BatchLine(3, "b", "/v1/completions", {"model": "m", "messages": []}),
    ]


def test_a_byte_order_mark_is_no_error() -> None:
    assert isinstance(next(read_lines([b"\xef\xbb\xbf" + line()])), BatchLine)


@pytest.mark.parametrize(
    ("raw", "code", "param", "part"),
    [
        (b"{", "invalid_json_line", None, "not valid JSON"),
        (b'{"a": NaN}', "invalid_json_line", None, "NaN"),
        (b"\xff", "invalid_json_line", None, "utf-8"),
        (b"[" * 100_000, "invalid_json_line", None, "nested"),
        (b"[1]", "invalid_json_line", None, "[1]"),
        (line(...), "missing_required_parameter", "custom_id", "custom_id"),
        (line(body=...), "missing_required_parameter", "body", "body"),
        (line(""), "invalid_custom_id", "custom_id", "512"),
        (line(7), "invalid_custom_id", "custom_id", "string"),
        (line("x" * 513), "invalid_custom_id", "custom_id", "512"),
        (line(method="GET"), "invalid_method", "method", '"GET"'),
        (line(url="/v1/files"), "invalid_url", "url", '"/v1/files"'),
        (line(url=["x"]), "invalid_url", "url", '["x"]'),
        (line(body=[]), "invalid_body", "body", "[]"),
        (line(body={}), "missing_required_parameter", "body.model", "model"),
        (line(body={"model": "m", "stream": True}), "invalid_body", "body.stream", "stream"),
    ],
)
def test_what_is_wrong_is_named(raw: bytes, code: str, param: str | None, part: str) -> None:
    found = list(read_lines([line("first"), raw, line("last")]))
    wrong = found[1]
    assert isinstance(wrong, LineError)
    assert (wrong.line, wrong.code, wrong.param) == (2, code, param)
    assert part in wrong.message
    assert [f.custom_id for f in found if isinstance(f, BatchLine)] == ["first", "last"]


def test_a_custom_id_stands_once_in_a_file() -> None:
    found = list(read_lines([line("a"), line("b"), line("a")]))
    wrong = found[2]
    assert isinstance(wrong, LineError)
    assert (wrong.line, wrong.code) == (3, "duplicate_custom_id")
    assert "line 1" in wrong.message


def test_every_url_is_the_batchs_endpoint() -> None:
    found = list(read_lines([line("a"), line("b", url="/v1/responses")], endpoint="/v1/responses"))
    wrong = found[0]
    assert isinstance(wrong, LineError)
    assert (wrong.line, wrong.code, wrong.param) == (1, "mismatched_url", "url")
    assert isinstance(found[1], BatchLine)


def test_faults_of_the_whole_file_have_no_line() -> None:
    (empty,) = read_lines([b"\n", b""])
    assert isinstance(empty, LineError)
    assert (empty.code, empty.line) == ("empty_file", None)
    *good, many = read_lines((line(str(i)) for i in range(10)), max_lines=3)
    assert len(good) == 3
    assert isinstance(many, LineError)
    assert (many.code, many.line) == ("too_many_tasks", None)


def test_an_output_line_is_openais() -> None:
    response = LineResponse(status_code=200, request_id="r", body={"id": "x"})
    written = OutputLine(id="batch_req_1", custom_id="a", response=response)
    assert json.loads(written.model_dump_json()) == {
        "id": "batch_req_1",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "r", "body": {"id": "x"}},
        "error": None,
    }
