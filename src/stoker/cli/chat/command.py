"""The terminal's side of `stoker chat`: lines in, answers out."""

from __future__ import annotations

import asyncio
import atexit
import sys
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stoker.cli.chat.session import HELP, Session
from stoker.cli.endpoint import ApiKey, Url, open_endpoint
from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.client import ApiClient

_QUOTES = '"""'


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model here (default: smollm2), or one that the server serves.",
            show_default=False,
        ),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="What the model is told first.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the same.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tokens and speed after each answer.")
    ] = False,
) -> None:
    """Talk to a model. /help lists the commands; Ctrl+C stops an answer, Ctrl+D leaves.

    From a pipe, each line is a message and only the answers are written.
    """
    from stoker.client import ApiClient

    given = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    settings: dict[str, object] = {k: v for k, v in given.items() if v is not None}
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    with open_endpoint(url, api_key, model) as endpoint, asyncio.Runner() as runner:
        session = Session(endpoint.model, system, settings=settings)
        client = ApiClient(endpoint.url, api_key=endpoint.api_key)
        runner.run(client.__aenter__())
        try:
            if terminal:
                _keep_history()
                _note(f"{endpoint.model} · /help lists the commands, Ctrl+D leaves")
            _talk(session, client, runner, terminal=terminal, verbose=verbose)
        finally:
            runner.run(client.__aexit__(None, None, None))


def _talk(
    session: Session,
    client: ApiClient,
    runner: asyncio.Runner,
    *,
    terminal: bool,
    verbose: bool,
) -> None:
    """Read and answer until the user leaves. From a pipe, the first error ends it."""
    while not session.ended:
        try:
            line = _read_message(terminal=terminal)
        except EOFError:
            if terminal:
                typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo()
            continue
        if not line.strip():
            continue
        try:
            if line.startswith("/"):
                said, wanted = session.command(line)
                if said:
                    typer.echo(said)
            else:
                session.ask(line)
                wanted = True
            if wanted:
                _reply(session, client, runner, verbose=verbose)
        except StokerError as error:
            if not terminal:
                raise
            typer.secho(str(error), fg="red", err=True)


def _reply(session: Session, client: ApiClient, runner: asyncio.Runner, *, verbose: bool) -> None:
    """Show the answer to what was said last, and note it; Ctrl+C ends it where it is."""
    reply = _Reply()
    try:
        with suppress(KeyboardInterrupt):
            runner.run(reply.show(client, session.payload()))
    finally:
        # After an error or an early stop too: what was said stands, or the question is undone.
        session.answered(reply.text)
    if verbose:
        _note(reply.speed())


class _Reply:
    """One answer, shown as it comes."""

    def __init__(self) -> None:
        self.text = ""
        self._reasoning = False
        self._usage: Mapping[str, Any] = {}
        self._began = time.perf_counter()
        self._first = 0.0

    async def show(self, client: ApiClient, payload: Mapping[str, Any]) -> None:
        try:
            async with aclosing(client.events("/v1/chat/completions", payload)) as events:
                async for event in events:
                    self._usage = event.get("usage") or self._usage
                    for choice in event.get("choices") or ():
                        self._take(choice.get("delta") or {})
        finally:
            if self.text or self._reasoning:
                typer.echo()

    def speed(self) -> str:
        """Tokens in and out, and their rate."""
        seconds = time.perf_counter() - self._began
        tokens = self._usage.get("completion_tokens", 0)
        rate = (tokens - 1) / (seconds - self._first) if tokens > 1 else 0.0
        return (
            f"{self._usage.get('prompt_tokens', 0)} tokens in, {tokens} out, first after "
            f"{self._first:.2f} s, then {rate:.0f} tokens/s"
        )

    def _take(self, delta: Mapping[str, Any]) -> None:
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        text = delta.get("content") or ""
        if (thought or text) and not self._first:
            self._first = time.perf_counter() - self._began
        if thought:
            self._reasoning = True
            typer.secho(thought, dim=True, nl=False)
        if text:
            if self._reasoning and not self.text:
                typer.echo()
            self.text += text
            typer.echo(text, nl=False)
        sys.stdout.flush()


def _read_message(*, terminal: bool) -> str:
    """One message; between triple quotes it may have several lines. Raises `EOFError`."""
    line = input(">>> " if terminal else "")
    if not line.startswith(_QUOTES):
        return line
    lines = [line.removeprefix(_QUOTES)]
    while not lines[-1].rstrip().endswith(_QUOTES):
        lines.append(input("... " if terminal else ""))
    lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
    return "\n".join(lines).strip("\n")


def _keep_history() -> None:
    """Let the arrow keys recall lines, of earlier conversations too, and Tab finish commands."""
    try:
        import readline
    except ImportError:  # a Python built without it
        return
    from stoker.model.store.store import default_home

    file = default_home() / "chat_history"
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(1000)

    def save() -> None:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)

    commands = [word for word in HELP.split() if word.startswith("/")]

    def complete(text: str, state: int) -> str | None:
        found = [command for command in commands if command.startswith(text)]
        return found[state] if text.startswith("/") and state < len(found) else None

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    atexit.register(save)


def _note(text: str) -> None:
    typer.secho(text, dim=True, err=True)
