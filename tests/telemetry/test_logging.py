"""Log lines for people and for machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from stoker.telemetry.logging import setup_logging


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("stoker").setLevel(logging.NOTSET)


def test_a_line_for_a_person_has_the_time_and_names_only_trouble() -> None:
    out = io.StringIO()
    setup_logging(stream=out)
    logging.getLogger("stoker.test").info("ready with %d blocks", 7)
    logging.getLogger("stoker.test").warning("careful")
    logging.getLogger("some.library").info("noise")
    first, second = out.getvalue().splitlines()
    assert first[8:] == " ready with 7 blocks"
    assert second[8:] == " warning: careful"


def test_json_lines_carry_what_was_added_and_the_exception() -> None:
    out = io.StringIO()
    setup_logging(as_json=True, stream=out)
    logging.getLogger("stoker.test").info("done", extra={"request_id": "r1", "status": 200})
    try:
        raise ValueError("odd\nline")
    except ValueError:
        logging.getLogger("stoker.test").exception("failed")
    done, failed = (json.loads(line) for line in out.getvalue().splitlines())
    assert done["message"] == "done"
    assert (done["request_id"], done["status"], done["level"]) == ("r1", 200, "info")
    assert done["time"].endswith("Z")
    assert "ValueError: odd\nline" in failed["exception"]
