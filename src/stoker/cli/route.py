"""`stoker route explain`: who would have been chosen, and why."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.errors import ConfigError

if TYPE_CHECKING:
    from stoker.router.config import PolicyName
    from stoker.router.replay import Placement

app = typer.Typer(help="Routing decisions, on paper.", no_args_is_help=True)


@app.callback()
def route() -> None:
    """Routing decisions, on paper."""


@app.command()
def explain(
    requests: Annotated[
        Path,
        typer.Argument(
            help='One request body as JSON, or a trace with {"at": seconds, "body": …} a line.'
        ),
    ],
    config: Annotated[Path, typer.Option(help="The fleet.")] = Path("stoker.yaml"),
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy; may be repeated. Default: all.")
    ] = None,
    in_flight: Annotated[
        list[str] | None, typer.Option(help="ENGINE=N: it has N requests already.")
    ] = None,
    each: Annotated[bool, typer.Option(help="Show every request of a trace.")] = False,
) -> None:
    """Say where each policy would send a request, or the requests of a trace."""
    from rich.console import Console
    from rich.table import Table

    from stoker.router.configfile import load_config
    from stoker.router.policies import POLICIES
    from stoker.router.replay import read_trace, replay

    known: dict[str, PolicyName] = {str(name): name for name in POLICIES}
    for given in policy or ():
        if given not in known:
            raise ConfigError(f"no policy is called {given!r}; there are {', '.join(known)}")
    busy = dict(_count(item) for item in in_flight or [])
    fleet = load_config(config)
    if not fleet.engines:
        raise ConfigError(f"{config} names no engine: pods are known to a running router only")
    single = len(read_trace(requests)) == 1
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("POLICY", "ENGINE", "REASON") if single or each else ("POLICY", "ENGINES", "KNOWN")
    for column in columns:
        table.add_column(column, overflow="fold")
    for name in (known[given] for given in policy or known):
        # Read anew for each: a policy notes things in the requests it sees.
        placements = list(replay(fleet, read_trace(requests), name, busy))
        if single or each:
            for placement in placements:
                table.add_row(name, placement.engine, placement.reason)
        else:
            table.add_row(name, *_summary(placements))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _summary(placements: list[Placement]) -> tuple[str, str]:
    """The engines' shares, and the share of prompt tokens taken to be cached."""
    counts = Counter(placement.engine for placement in placements)
    shares = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    prompt = sum(placement.prompt_tokens for placement in placements)
    known = sum(placement.known_tokens for placement in placements)
    return shares, f"{known / prompt:.0%} of {prompt} prompt tokens"


def _count(item: str) -> tuple[str, int]:
    name, _, number = item.partition("=")
    if not number.isdigit():
        raise ConfigError(f"--in-flight {item}: expected ENGINE=NUMBER")
    return name, int(number)
