"""Stop strings, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.engine.stop import StopStringFinder


def read(pieces: list[str], stops: list[str], *, include: bool = False) -> tuple[str, str | None]:
    """All text that is sent, and the stop string that ended it."""
    finder = StopStringFinder(stops, include=include)
    sent = ""
    for piece in pieces:
        text, stop = finder.push(piece)
        sent += text
        if stop is not None:
            return sent, stop
    return sent + finder.flush(), None


def first_completed(text: str, stops: list[str], *, include: bool) -> tuple[str, str | None]:
    """The definition: the shortest beginning of the text that ends in a stop string."""
    for end in range(1, len(text) + 1):
        ends_here = [stop for stop in stops if text[:end].endswith(stop)]
        if ends_here:
            stop = max(ends_here, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@pytest.mark.parametrize(
    ("pieces", "stops", "sent", "stop"),
    [
        (["one END two"], ["END"], "one ", "END"),
        (["one E", "N", "D two"], ["END"], "one ", "END"),
        (["one E", "N", "X two"], ["END"], "one ENX two", None),
        (["EEN", "D"], ["END"], "E", "END"),
        (["a b c d"], ["b c", "a b c d"], "a ", "b c"),
        (["xab"], ["ab", "xab", "b"], "", "xab"),
        (["no", "thing"], ["END"], "nothing", None),
        (["tail E"], ["END"], "tail E", None),
    ],
)
def test_examples(pieces: list[str], stops: list[str], sent: str, stop: str | None) -> None:
    assert read(pieces, stops) == (sent, stop)


def test_only_what_could_begin_a_stop_string_is_held_back() -> None:
    finder = StopStringFinder(["STOP"])
    assert finder.push("abcS") == ("abc", None)
    assert finder.push("T") == ("", None)
    assert finder.push("R") == ("STR", None)
    assert finder.push("S") == ("", None)
    assert finder.flush() == "S"
    assert finder.flush() == ""


@given(
    pieces=st.lists(st.text("ab ", max_size=4), max_size=10),
    stops=st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=3),
    include=st.booleans(),
)
def test_the_result_does_not_depend_on_how_the_text_is_cut(
    pieces: list[str], stops: list[str], include: bool
) -> None:
    expected = first_completed("".join(pieces), stops, include=include)
    assert read(pieces, stops, include=include) == expected
    assert read(list("".join(pieces)), stops, include=include) == expected
