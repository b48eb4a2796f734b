"""The `stoker` command. Each command is a function in a file of its own.

What a command needs is imported inside it, so that `stoker --help` and every other command start
without it.
"""

from __future__ import annotations

import sys

import typer

from stoker.cli import bench, keys, models, plan, ps, route, router, up, usage
from stoker.cli.chat import chat
from stoker.cli.collect_env import collect_env
from stoker.cli.complete import complete
from stoker.cli.run_batch import run_batch
from stoker.cli.serve import serve
from stoker.cli.top import top
from stoker.errors import StokerError

app = typer.Typer(
    help="Serve open language models behind one OpenAI-compatible address.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve)
app.command("chat")(chat)
app.command("complete")(complete)
app.command("run-batch")(run_batch)
app.command("pull")(models.pull)
app.command("list")(models.list_models)
app.command("show")(models.show)
app.command("rm")(models.remove)
app.command("plan")(plan.plan)
app.command("router")(router.router)
app.command("up")(up.up)
app.command("ps")(ps.ps)
app.command("top")(top)
app.command("collect-env")(collect_env)
app.command("usage")(usage.usage)
app.add_typer(keys.app, name="keys")
app.add_typer(bench.app, name="bench")
app.add_typer(route.app, name="route")


def main() -> None:
    """Run the command line; an error made on purpose is one line and exit status 1."""
    try:
        app()
    except StokerError as error:
        typer.echo(f"stoker: {error}", err=True)
        sys.exit(1)
