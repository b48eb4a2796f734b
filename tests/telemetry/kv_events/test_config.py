"""`--kv-events-config`."""

from __future__ import annotations

import pytest

from stoker.errors import InvalidRequest
from stoker.telemetry.kv_events.config import KVEventsConfig, read_config


def test_nothing_is_published_unless_enabled() -> None:
    assert not read_config("{}").publishes
    assert read_config('{"enable_kv_cache_events": true}').publishes
    assert not read_config('{"enable_kv_cache_events": true, "publisher": "null"}').publishes


def test_every_field_of_vllm_is_known() -> None:
    found = read_config(
        '{"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:1",'
        '"replay_endpoint": "tcp://*:2", "buffer_steps": 3, "hwm": 4, "max_queue_size": 5,'
        '"topic": "t"}'
    )
    assert found == KVEventsConfig(True, "zmq", "tcp://*:1", "tcp://*:2", 3, 4, 5, "t")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "truncated"),
        ('"zmq"', "object"),
        ('{"enabled": true}', "unknown field `enabled`"),
        ('{"publisher": "kafka"}', r"\$.publisher"),
        ('{"endpoint": "http://here"}', r"\$.endpoint"),
        ('{"buffer_steps": 0}', r"\$.buffer_steps"),
    ],
)
def test_what_is_wrong_is_named(text: str, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as caught:
        read_config(text)
    assert caught.value.param == "kv_events_config"
    assert "replay_endpoint" in str(caught.value)
