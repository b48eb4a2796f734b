"""Metrics pages, and what lies between two of them."""

from __future__ import annotations

import math

import pytest

from stoker.client.http import ServerUnreachable
from stoker.client.scrape import Scrape, Span, quantile

PAGE = """\
# TYPE requests counter
requests_total{model="a",engine="0"} 3
requests_total{model="b",engine="0"} 4
# TYPE use gauge
use 0.5
# TYPE seconds histogram
seconds_bucket{engine="0",le="0.1"} 1
seconds_bucket{engine="0",le="0.2"} 3
seconds_bucket{engine="0",le="+Inf"} 4
seconds_bucket{engine="1",le="0.1"} 10
seconds_bucket{engine="1",le="0.2"} 10
seconds_bucket{engine="1",le="+Inf"} 10
"""


def scrape(text: str = PAGE, at: float = 0.0) -> Scrape:
    return Scrape.parse(text, at)


def test_values_are_found_by_name_and_labels() -> None:
    page = scrape()
    assert page.total("requests_total") == 7
    assert page.total("requests_total", model="a") == 3
    assert page.total("requests_total", model="c") is None
    assert page.total("no_such", "use", "requests_total") == 0.5
    assert page.total("no_such") is None
    assert page.labels("model", "requests_total") == ["a", "b"]
    assert page.labels("engine", "requests_total") == ["0"]
    assert page.buckets("seconds", engine="0") == {0.1: 1, 0.2: 3, math.inf: 4}
    assert page.buckets("seconds") == {0.1: 11, 0.2: 13, math.inf: 14}


@pytest.mark.parametrize("text", ["<html>no</html>", "a b c d e", '{"detail": "x"}'])
def test_a_page_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ServerUnreachable, match="not in Prometheus' format"):
        scrape(text)


def test_a_bucket_without_a_bound_is_none() -> None:
    text = 'seconds_bucket 3\nseconds_bucket{le="x"} 3\nseconds_bucket{le="+Inf"} 3\n'
    assert scrape(text).buckets("seconds") == {math.inf: 3}


def test_rates_and_percentiles_are_of_what_is_new() -> None:
    later = PAGE.replace('"a",engine="0"} 3', '"a",engine="0"} 13').replace(
        '"0",le="0.2"} 3', '"0",le="0.2"} 7'
    )
    later = later.replace('"0",le="+Inf"} 4', '"0",le="+Inf"} 8')
    span = Span(scrape(at=10.0), scrape(later, at=12.0))
    assert span.grown("requests_total") == 10
    assert span.rate("requests_total", model="a") == 5
    assert span.rate("requests_total", model="b") == 0
    assert span.rate("no_such") is None
    # Four new values, all between 0.1 and 0.2.
    found = span.percentiles("seconds", engine="0")
    assert found is not None
    assert (found.p50, found.p90, found.p99) == pytest.approx((0.15, 0.19, 0.199))
    assert span.percentiles("seconds", engine="1") is None
    assert span.percentiles("no_such") is None


def test_a_counter_that_appears_grew_from_nothing_and_none_shrinks() -> None:
    span = Span(scrape("", at=0.0), scrape(at=1.0))
    assert span.grown("requests_total") == 7
    assert Span(scrape(at=0.0), scrape("requests_total 1\n", at=1.0)).grown("requests_total") == 0
    assert Span(scrape(), scrape()).rate("requests_total") is None


@pytest.mark.parametrize(
    ("q", "expected"),
    [(0.0, 0.0), (0.25, 1.0), (0.5, 2.0), (0.375, 1.5), (0.75, 4.0), (0.9, 4.0), (1.0, 4.0)],
)
def test_quantiles_are_interpolated_as_prometheus_does(q: float, expected: float) -> None:
    # One value in (0, 1], one in (1, 2], one in (2, 4], one above.
    assert quantile({1.0: 1, 2.0: 2, 4.0: 3, math.inf: 4}, q) == pytest.approx(expected)


def test_an_empty_bucket_is_passed_over() -> None:
    assert quantile({1.0: 0, 2.0: 0, 4.0: 2, math.inf: 2}, 0.5) == pytest.approx(3.0)
