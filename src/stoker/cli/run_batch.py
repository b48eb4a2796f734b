"""`stoker run-batch`: OpenAI's batch files, from start to end or from where they stopped."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from stoker.cli.endpoint import ApiKey, Endpoint, Url, open_endpoint
from stoker.cli.progress import progress
from stoker.errors import InvalidRequest, StokerError

if TYPE_CHECKING:
    from stoker.api.batch_lines import BatchLine, OutputLine
    from stoker.client import ApiClient

_SHOWN_ERRORS = 20
_RETRIED = (429, 500, 502, 503, 504)
_LONGEST_PAUSE_S = 30.0


def run_batch(
    input_file: Annotated[
        Path, typer.Option("--input-file", "-i", help="JSONL: custom_id, method, url, body a line.")
    ],
    output_file: Annotated[
        Path, typer.Option("--output-file", "-o", help="Answers; what it holds is not asked again.")
    ],
    error_file: Annotated[
        Path | None,
        typer.Option(help="Lines that failed; default: the output file's name and .errors."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model to load; default: the one the lines name."),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 64,
    retries: Annotated[
        int, typer.Option(min=0, help="Times a line is asked again when the server is busy.")
    ] = 5,
    request_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for an answer.")
    ] = 3600.0,
) -> None:
    """Answer the requests of a batch file.

    The whole file is checked before anything runs. Interrupted, the same command goes on where it
    stopped; lines that failed are tried again. The exit status is 1 when any line failed.
    """
    lines = _read(input_file)
    error_file = error_file or output_file.with_name(output_file.name + ".errors")
    with _appending(output_file) as output:
        done = _answered(output)
        left = [line for line in lines if line.custom_id not in done]
        error_file.unlink(missing_ok=True)
        failed = 0
        if left:
            with open_endpoint(url, api_key, model or left[0].body["model"]) as endpoint:
                failed = asyncio.run(
                    _run(endpoint, left, output, error_file, concurrency, retries, request_timeout)
                )
    if failed:
        typer.echo(f"stoker: {failed} of {len(lines)} lines failed; see {error_file}", err=True)
        raise typer.Exit(1)
    if sys.stderr.isatty():
        typer.echo(f"{len(lines)} lines answered: {output_file}", err=True)


def _read(path: Path) -> list[BatchLine]:
    """The file's requests. What is wrong with it is written to standard error, line by line, and
    then raised."""
    from stoker.api.batch_lines import BatchLine, LineError, read_lines

    lines: list[BatchLine] = []
    errors: list[LineError] = []
    try:
        with path.open("rb") as file:
            for found in read_lines(file, max_lines=sys.maxsize):
                if isinstance(found, BatchLine):
                    lines.append(found)
                else:
                    errors.append(found)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror or error}") from None
    for wrong in errors[:_SHOWN_ERRORS]:
        place = f"{path}:{wrong.line}" if wrong.line is not None else str(path)
        typer.echo(f"{place}: {wrong.code}: {wrong.message}", err=True)
    if errors:
        raise InvalidRequest(f"{path} was not run: {len(errors)} errors in it")
    return lines


@contextmanager
def _appending(path: Path) -> Iterator[BinaryIO]:
    """The output file, held against a second run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise StokerError(f"{path} cannot be written: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StokerError(f"{path} is being written by another run") from None
        yield file


def _answered(output: BinaryIO) -> set[str]:
    """The ids that a file of answers holds. A last line that was cut off is removed."""
    done = set()
    end = 0
    output.seek(0)
    for line in output:
        if not line.endswith(b"\n"):
            break
        end += len(line)
        try:
            done.add(str(json.loads(line)["custom_id"]))
        except (ValueError, LookupError, TypeError, RecursionError):
            raise StokerError(
                f"{output.name} is no file of answers: choose another --output-file"
            ) from None
    output.truncate(end)
    return done


async def _run(
    endpoint: Endpoint,
    lines: Sequence[BatchLine],
    output: BinaryIO,
    error_file: Path,
    concurrency: int,
    retries: int,
    within: float,
) -> int:
    """Ask for every line; each answer is on disk before the next is taken. Returns how many
    failed."""
    from stoker.client import ApiClient

    failed = 0
    waiting = iter(lines)

    async with ApiClient(endpoint.url, api_key=endpoint.api_key) as client:
        with progress("Lines", len(lines)) as advance:

            async def work() -> None:
                nonlocal failed
                for line in waiting:
                    answer = await _ask(client, line, retries, within)
                    text = answer.model_dump_json().encode() + b"\n"
                    if answer.response is not None and answer.response.status_code == 200:
                        output.write(text)
                        output.flush()
                    else:
                        failed += 1
                        with error_file.open("ab") as errors:
                            errors.write(text)
                    advance()

            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(lines))):
                    group.create_task(work())
    os.fsync(output.fileno())
    return failed


async def _ask(client: ApiClient, line: BatchLine, retries: int, within: float) -> OutputLine:
    """One line's answer, or why there is none."""
    from stoker.api.batch_lines import LineResponse, OutputLine
    from stoker.api.errors import ErrorInfo
    from stoker.client import ServerUnreachable

    name = f"batch_req_{uuid.uuid4().hex}"
    for attempt in range(retries + 1):
        pause = min(_LONGEST_PAUSE_S, 0.5 * 2**attempt)
        try:
            answer = await client.post(line.url, line.body, within=within)
            if answer.status not in _RETRIED or attempt == retries:
                body = answer.json()
                response = LineResponse(
                    status_code=answer.status, request_id=answer.request_id, body=body
                )
                return OutputLine(id=name, custom_id=line.custom_id, response=response)
            pause = min(_LONGEST_PAUSE_S, answer.retry_after or pause)
        except (ServerUnreachable, ValueError) as error:
            if attempt == retries:
                wrong = ErrorInfo(message=str(error), type="server_error", code="no_answer")
                return OutputLine(id=name, custom_id=line.custom_id, error=wrong)
        await asyncio.sleep(pause)
    raise AssertionError("the last attempt returns")
