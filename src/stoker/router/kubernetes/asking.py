"""Asks a pod's engine what it serves, and by that what it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from stoker.router.config import Breaker, EngineConfig, EngineKind, Health, KubernetesSettings
from stoker.router.engines.handle import EngineHandle
from stoker.router.fetch import fetch
from stoker.router.kubernetes.pods import Pod, engine_of
from stoker.router.upstream import Pool, UpstreamFailure

Ask = Callable[[Pod], Awaitable[EngineConfig]]
"""The engine in a pod, once it lists a model. Raises `NoAnswer` or `PodUnclear`."""

# By what engines call the owner of the models that they list.
_KINDS: dict[str, EngineKind] = {"stoker": "native", "vllm": "vllm", "llamacpp": "llama_cpp"}


class NoAnswer(Exception):
    """A pod's engine does not list a model; says why."""


class _Card(msgspec.Struct):
    id: str
    owned_by: str = ""


class _Cards(msgspec.Struct):
    data: list[_Card]


_decode = msgspec.json.Decoder(_Cards).decode


def asker(settings: KubernetesSettings, *, connect_timeout: float, within: float) -> Ask:
    """Asks pods, with so many seconds for a connection and for an answer."""

    async def ask(pod: Pod) -> EngineConfig:
        unknown = engine_of(pod, settings, "openai")
        handle = EngineHandle(unknown, Breaker(), Health())
        pool = Pool(handle.address, connect_timeout=connect_timeout)
        try:
            status, body = await fetch(pool, handle, "/v1/models", within=within)
        except UpstreamFailure as failure:
            raise NoAnswer(str(failure)) from None
        finally:
            pool.close()
        if status != 200:
            raise NoAnswer(f"/v1/models answers {status}")
        try:
            cards = _decode(body).data
        except msgspec.MsgspecError as error:
            raise NoAnswer(f"/v1/models is not a list of models ({error})") from None
        if not cards:
            raise NoAnswer("it serves no model yet")
        return engine_of(pod, settings, _KINDS.get(cards[0].owned_by, "openai"))

    return ask
