"""`stoker complete`: one answer, for a shell's pipes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import typer

from stoker.cli.endpoint import ApiKey, Endpoint, Model, Url, open_endpoint
from stoker.errors import InvalidRequest, why


def complete(
    prompt: Annotated[
        str | None,
        typer.Argument(help="The text; what is piped in comes after it.", show_default=False),
    ] = None,
    model: Model = None,
    url: Url = None,
    api_key: ApiKey = None,
    chat: Annotated[
        bool, typer.Option("--chat", "-c", help="Ask it as a message instead of continuing it.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="A system message; implies --chat.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float | None, typer.Option(help="0: always the same answer.")] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends the answer; may repeat.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="File with a JSON schema that the answer follows.")
    ] = None,
) -> None:
    """Answer once and write nothing but the answer.

    Examples: stoker complete "Once upon a time" · git diff | stoker complete -c "Describe this
    change:"
    """
    text = _text(prompt)
    path, payload = request_for(text, chat=chat or system is not None, system=system)
    options = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
        "response_format": _schema(json_schema),
    }
    payload |= {name: value for name, value in options.items() if value is not None}
    with open_endpoint(url, api_key, model) as endpoint:
        reason = asyncio.run(_answer(endpoint, path, payload))
    if reason == "length" and sys.stderr.isatty():
        typer.secho(f"(cut off after {max_tokens} tokens; see --max-tokens)", dim=True, err=True)


def request_for(text: str, *, chat: bool, system: str | None) -> tuple[str, dict[str, Any]]:
    """Path and body that ask for `text` to be continued or, as a chat, answered."""
    if not chat:
        return "/v1/completions", {"prompt": text}
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return "/v1/chat/completions", {"messages": messages}


async def pieces(
    events: AsyncIterator[Mapping[str, Any]],
) -> AsyncIterator[tuple[str, str | None]]:
    """The answer's text as it comes, and with the last piece the reason it ended."""
    async for event in events:
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            text = choice.get("text") or delta.get("content") or ""
            yield text, choice.get("finish_reason")


async def _answer(endpoint: Endpoint, path: str, payload: dict[str, Any]) -> str | None:
    from stoker.client import ApiClient

    reason = None
    async with ApiClient(endpoint.url, api_key=endpoint.api_key) as client:
        body = {"model": endpoint.model, "stream": True, **payload}
        async with aclosing(client.events(path, body)) as events:
            async for text, ended in pieces(events):
                sys.stdout.write(text)
                sys.stdout.flush()
                reason = ended or reason
    sys.stdout.write("\n")
    sys.stdout.flush()
    return reason


def _text(prompt: str | None) -> str:
    """The prompt and what is piped in. Raises `InvalidRequest` when there is neither."""
    piped = ""
    if not sys.stdin.isatty():
        try:
            piped = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest("what is piped in is not UTF-8 text") from None
    if prompt is not None and piped.strip():
        return f"{prompt}\n\n{piped}"
    text = prompt if prompt is not None else piped
    if not text.strip():
        raise InvalidRequest("there is no prompt: give it as an argument or pipe it in")
    return text


def _schema(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        schema = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"--json-schema {file} cannot be read: {why(error)}") from None
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
