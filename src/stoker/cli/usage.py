"""`stoker usage`: who used what, and what it cost."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from stoker.router.ledger.book import Tally
    from stoker.router.ledger.tables import UsageQuery, UsageRow


def usage(
    by: Annotated[
        str, typer.Option(help="What to add up by: day, key, model, engine, with commas.")
    ] = "key,model,engine",
    since: Annotated[str | None, typer.Option(help="First day, as 2026-01-31 (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Last day.")] = None,
    key: Annotated[str | None, typer.Option(help="This key's only.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="Whose storage; stoker.yaml if it is there, else the default."),
    ] = None,
    storage: Annotated[str | None, typer.Option(help="The storage's URL.")] = None,
) -> None:
    """What the router's clients used in the last 30 days, and what it cost."""
    from stoker.cli.keys import run
    from stoker.router.ledger import report, tables

    query = report.read_query(by=by, since=since, until=until, key=key, now=time.time())
    rows = run(config, storage, lambda database: tables.read_usage(database, query))
    if json:
        import msgspec

        typer.echo(msgspec.json.encode(report.as_data(query, rows)).decode())
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(usage_table(query, rows))


def usage_table(query: UsageQuery, rows: Sequence[UsageRow]) -> Table:
    """Rows and their sum, with what a thousand requests and a million tokens cost."""
    from rich.table import Table

    from stoker.router.ledger import report

    title = f"Usage {report.day_name(query.since)} to {report.day_name(query.until)} (UTC)"
    table = Table(title=title, title_justify="left", box=None)
    for name in query.by:
        table.add_column(name)
    for name in ("requests", "failed", "cancelled", "refused", "prompt", "cached", "written"):
        table.add_column(name, justify="right")
    for name in ("engine s", "cost", "per 1,000 requests", "per million tokens"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*report.labels(query, row).values(), *_cells(row.tally))
    if query.by and len(rows) > 1:
        blank = [""] * (len(query.by) - 1)
        table.add_row("all", *blank, *_cells(report.total(rows)), style="bold")
    return table


def _cells(tally: Tally) -> list[str]:
    from stoker.router.ledger import report

    counts = (
        *(tally.requests, tally.failed, tally.cancelled, tally.refused),
        *(tally.prompt_tokens, tally.cached_tokens, tally.completion_tokens),
    )
    money = (tally.cost, report.per_1000_requests(tally), report.per_million_tokens(tally))
    return [
        *(f"{count:,}" for count in counts),
        f"{tally.engine_seconds:,.1f}",
        *("" if amount is None else f"{amount:,.4f}" for amount in money),
    ]
