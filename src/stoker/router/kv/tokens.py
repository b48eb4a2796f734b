"""A prompt's tokens, as an engine that serves its model makes them.

The router loads no tokenizer and renders no chat template: whichever engine answers uses its
own, so what it says is right by definition.
"""

from __future__ import annotations

import msgspec

from stoker.router.engines.handle import EngineHandle
from stoker.router.fetch import fetch
from stoker.router.request import Features
from stoker.router.upstream import Pool, UpstreamFailure

# An answer later than this is not worth waiting for.
WITHIN_S = 0.25


class _Tokens(msgspec.Struct):
    tokens: list[int]


_decoder = msgspec.json.Decoder(_Tokens)


async def ask_tokens(pool: Pool, engine: EngineHandle, features: Features) -> list[int] | None:
    """The tokens of the request's prompt; None if the engine does not say in time."""
    body = _question(engine, features)
    if body is None:
        return None
    try:
        status, answer = await fetch(pool, engine, "/tokenize", body=body, within=WITHIN_S)
        return _decoder.decode(answer).tokens if status == 200 else None
    except (UpstreamFailure, msgspec.MsgspecError):
        return None


def _question(engine: EngineHandle, features: Features) -> bytes | None:
    """The body for `/tokenize`; None for a request whose prompt is not one text or one chat."""
    served = engine.models.get(features.model or "")
    fields: dict[str, object] = {"model": served.own_name if served else features.model}
    prompt = msgspec.Raw(features.prompt)
    if features.path == b"/v1/chat/completions" and features.prompt.startswith(b"["):
        fields["messages"] = prompt
        if features.has_tools:
            fields["tools"] = msgspec.Raw(features.preamble)
    elif features.path == b"/v1/completions" and features.prompt.startswith(b'"'):
        fields["prompt"] = prompt
    else:
        return None
    return msgspec.json.encode(fields)
