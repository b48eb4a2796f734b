"""`stoker chat`: a conversation in the terminal."""

from stoker.cli.chat.command import chat

__all__ = ["chat"]
