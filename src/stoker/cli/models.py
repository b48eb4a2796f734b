"""`stoker pull`, `list`, `show` and `rm`: the models on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.errors import ModelError, ModelNotFound

if TYPE_CHECKING:
    from rich.console import Console

    from stoker.model.store import StoredModel

Name = Annotated[
    str, typer.Argument(help="smollm2, minilm, hf:org/repo, hf:org/repo:file.gguf, or a path.")
]


def pull(name: Name = "smollm2") -> None:
    """Fetch a model; an interrupted pull continues where it stopped."""
    from stoker.model.store import resolve

    try:
        typer.echo(resolve(name))
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None


def list_models() -> None:
    """List the models that were pulled."""
    from rich.table import Table

    from stoker.model.store import Store

    store = Store()
    models = store.models()
    if not models:
        typer.echo(f"No models in {store.home}. Try: stoker pull", err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("NAME", overflow="fold")
    table.add_column("SIZE", justify="right")
    table.add_column("QUANTIZATION")
    table.add_column("PATH", overflow="fold")
    for model in models:
        table.add_row(model.name, format_bytes(model.nbytes), _quantization(model), str(model.path))
    console().print(table)


def show(name: Name = "smollm2") -> None:
    """Show what a model is: its architecture, size, context, quantization, tokenizer."""
    from rich.table import Table

    from stoker.model.facts import describe

    path = local_path(name)
    facts = describe(path)
    spec = facts.spec
    rows = {
        "name": name,
        "path": str(path),
        "size": format_bytes(_size(path)),
        "architecture": spec.architecture,
        "parameters": _format_count(facts.parameters),
        "layers": f"{spec.num_layers} of hidden size {spec.hidden_size}",
        "attention": f"{spec.num_heads} heads of {spec.head_dim}, {spec.num_kv_heads} for keys "
        "and values",
        "context": f"{spec.max_position} tokens",
        "quantization": facts.quantization,
        "tokenizer": f"{facts.tokenizer}, {facts.vocab_size} tokens",
        "chat template": "yes" if facts.has_chat_template else "no",
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, value)
    console().print(table)


def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a pulled model."""
    from stoker.model.store import Store
    from stoker.model.store.names import parse_name

    source = parse_name(name)
    if isinstance(source, Path):
        raise ModelError(f"{name} is a path outside the store; delete it yourself")
    store = Store()
    if not yes:
        typer.confirm(f"Delete {source.name} from {store.home}?", abort=True, err=True)
    freed = store.remove(source)
    typer.echo(f"Deleted {source.name}: {format_bytes(freed)} freed.", err=True)


def format_bytes(count: int) -> str:
    """`92.9 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _format_count(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _quantization(model: StoredModel) -> str:
    from stoker.model.facts import quantization

    try:
        return quantization(model.path)
    except ModelError:
        return "unreadable"


def local_path(name: str) -> Path:
    """Where a model lies; raises `ModelNotFound` rather than fetching it."""
    from stoker.model.store import Store
    from stoker.model.store.names import parse_name

    source = parse_name(name)
    if isinstance(source, Path):
        return source
    found = Store().find(source)
    if found is None:
        raise ModelNotFound(f"{source.name} is not on this machine; run: stoker pull {name}")
    return found.path


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return sum(file.stat().st_size for file in files)


def console() -> Console:
    """Standard output; what is piped is neither coloured nor wrapped."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000)
