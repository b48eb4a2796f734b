"""Replays requests against a fleet on paper: who would have been chosen, and why.

The policies are those of the router, given engines that exist only as their configuration. A
request keeps its place on an engine for as long as the engine's speed says; where all engines
are full it waits for the first to have room, as in the router.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import ConfigError, InvalidRequest, why
from stoker.router.config import Config, PolicyName
from stoker.router.engines.handle import EngineHandle, Lease
from stoker.router.fleet import Fleet
from stoker.router.managed.commands import served_name
from stoker.router.policies import POLICIES
from stoker.router.policies.work import rates_of
from stoker.router.request import Features, Request, read_features


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when it came, in seconds from the first."""

    at: float
    features: Features


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request would have gone, when, and why."""

    at: float
    engine: str
    reason: str
    prompt_tokens: int
    known_tokens: int


def read_trace(path: Path) -> list[Arrival]:
    """The requests in a file: one JSON body, or one `{"at": s, "body": …, "headers": …}` a line.

    Raises `ConfigError` with the line that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({why(error)})") from error
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        return [_arrival(line, f"{path}:{number}") for number, line in lines]
    return [_arrival(json.dumps(whole), f"{path}:1")]


def _arrival(line: str, where: str) -> Arrival:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("expected an object")
        if "body" not in record:
            record = {"body": record}
        body = json.dumps(record["body"]).encode()
        headers = {str(n).lower(): str(v) for n, v in record.get("headers", {}).items()}
        target = str(record.get("path", "/v1/chat/completions")).encode()
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        features = read_features(Request(b"POST", target, fields, body))
        return Arrival(float(record.get("at", 0.0)), features)
    except (ValueError, AttributeError, TypeError, InvalidRequest) as error:
        raise ConfigError(f"{where}: not a request ({error})") from error


def replay(
    config: Config,
    trace: Iterable[Arrival],
    policy: PolicyName,
    in_flight: Mapping[str, int] | None = None,
) -> Iterator[Placement]:
    """Where `policy` would have sent each request of `trace`, in order of arrival.

    `in_flight`: how many requests of a usual size each engine has at the start and keeps.
    Raises `InvalidRequest` for a model that no engine serves.
    """
    arrivals = sorted(trace, key=lambda arrival: arrival.at)
    fleet = _fleet_on_paper(config, [arrival.features.model for arrival in arrivals])
    for name, count in (in_flight or {}).items():
        if name not in fleet.engines:
            raise ConfigError(f"no engine is called {name!r}")
        for _ in range(count):
            fleet.engines[name].take(256, 256, now=0.0)
    chooser = POLICIES[policy]()
    running: list[tuple[float, int, Lease]] = []
    numbers = itertools.count()
    for arrival in arrivals:
        features, now = arrival.features, arrival.at
        features.model = fleet.resolve(features.model)
        serving = _serving(fleet, features)
        _finish(running, now)
        while not (free := [engine for engine in serving if engine.in_flight < engine.capacity]):
            if not running:
                raise ConfigError("all engines are full, and nothing that runs would end")
            now = running[0][0]
            _finish(running, now)
        decision = chooser.choose(features, free)
        chooser.placed(features, decision.engine)
        to_read = max(features.prompt_tokens - decision.known_tokens, 1)
        lease = decision.engine.take(to_read, features.output_tokens * features.answers, now)
        seconds = _seconds(decision.engine, serving, features, decision.known_tokens)
        heapq.heappush(running, (now + seconds, next(numbers), lease))
        yield Placement(
            now,
            decision.engine.name,
            decision.reason,
            features.prompt_tokens,
            decision.known_tokens,
        )


def _fleet_on_paper(config: Config, models: Sequence[str | None]) -> Fleet:
    """The configured engines, all well. One that runs elsewhere and does not say what it serves
    serves whatever the trace asks for."""
    asked = {config.aliases.get(model, model) for model in models if model is not None}
    engines = []
    for engine in config.engines:
        names = {served_name(engine)} if engine.model is not None else asked or {"any"}
        served = engine.models or {name: name for name in names}
        update = {"url": engine.url or "http://127.0.0.1", "models": served}
        engines.append(engine.model_copy(update=update))
    fleet = Fleet(config.model_copy(update={"engines": tuple(engines)}))
    for handle in fleet.engines.values():
        handle.health.passed()
    return fleet


def _serving(fleet: Fleet, features: Features) -> Sequence[EngineHandle]:
    engines = fleet.serving(features.model) if features.model is not None else ()
    backend = features.backend
    own = [engine for engine in engines if backend in (None, engine.kind, engine.name)]
    if not own:
        what = f"the model {features.model!r}" if features.model is not None else "a model"
        where = f" on {backend}" if backend is not None else ""
        raise InvalidRequest(f"no engine serves {what}{where}", param="model")
    return own


def _seconds(
    engine: EngineHandle, fleet: Sequence[EngineHandle], features: Features, known_tokens: int
) -> float:
    """How long the engine, one of `fleet`, would have been at it, among what else it had."""
    prefill, decode = rates_of(fleet)[list(fleet).index(engine)]
    reading = max(features.prompt_tokens - known_tokens, 1) / prefill
    return reading + features.output_tokens * max(engine.in_flight, 1) / decode


def _finish(running: list[tuple[float, int, Lease]], now: float) -> None:
    while running and running[0][0] <= now:
        at, _, lease = heapq.heappop(running)
        lease.give_back(at)
