"""What `--kv-events-config` may say: a JSON object with vLLM's fields."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from stoker.errors import InvalidRequest

Count = Annotated[int, msgspec.Meta(ge=1)]
Address = Annotated[str, msgspec.Meta(pattern=r"^(tcp|ipc|inproc)://.+")]


class KVEventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether and where events are published."""

    enable_kv_cache_events: bool = False
    publisher: Literal["null", "zmq"] | None = None
    """None: `zmq` when events are enabled."""
    endpoint: Address = "tcp://*:5557"
    """Of the PUB socket. An address with `*` or `::`, and `ipc` and `inproc`, is bound; another
    is connected to, for a subscriber that listens for many engines."""
    replay_endpoint: Address | None = None
    """Of the ROUTER socket that hands out past batches; always bound."""
    buffer_steps: Count = 10_000
    """Batches kept for replay."""
    hwm: Count = 100_000
    """Batches queued for a slow subscriber before it loses some."""
    max_queue_size: Count = 100_000
    """Batches waiting to be sent before some are lost."""
    topic: str = ""

    @property
    def publishes(self) -> bool:
        """Whether there is anything to publish to."""
        return self.enable_kv_cache_events and self.publisher != "null"


def read_config(text: str) -> KVEventsConfig:
    """The settings in a JSON object.

    Raises:
        InvalidRequest: it is no JSON, a name is unknown, or a value is wrong.
    """
    try:
        return msgspec.json.decode(text, type=KVEventsConfig)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidRequest(
            f"--kv-events-config is wrong: {error}. It is a JSON object such as "
            '\'{"enable_kv_cache_events": true, "endpoint": "tcp://*:5557"}\', with the fields '
            f"{', '.join(KVEventsConfig.__struct_fields__)}",
            param="kv_events_config",
        ) from None
