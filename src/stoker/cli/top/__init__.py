"""`stoker top`: how a server is doing, as it goes on. `view` draws it, `command` asks for it."""

from stoker.cli.top.command import top

__all__ = ["top"]
