"""`stoker bench`: how fast a server, or the engine itself, is."""

from __future__ import annotations

import typer

from stoker.cli.bench.latency import latency
from stoker.cli.bench.serve import serve
from stoker.cli.bench.startup import startup
from stoker.cli.bench.throughput import throughput

app = typer.Typer(
    help="Measure a server (serve), or the engine by itself (throughput, latency, startup).",
    no_args_is_help=True,
)
app.command("serve")(serve)
app.command("throughput")(throughput)
app.command("latency")(latency)
app.command("startup")(startup)
