"""What a policy is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from stoker.router.engines.handle import EngineHandle
from stoker.router.request import Features


class Decision(msgspec.Struct, frozen=True):
    """The engine chosen, and the reason in a few words (sent as `x-stoker-reason`)."""

    engine: EngineHandle
    reason: str
    known_tokens: int = 0
    """How much of the prompt the policy takes the engine to have cached."""


class Policy(ABC):
    """Chooses among the engines that could take a request now.

    `choose` changes nothing: asked twice, it answers the same, so that a trace can be replayed
    against it. What a policy remembers changes in `placed` and `forget` only.
    """

    name: ClassVar[str]

    @abstractmethod
    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        """Choose one of `engines`, which is never empty."""

    def placed(self, features: Features, engine: EngineHandle) -> None:  # noqa: B027
        """The request went to `engine`."""

    def forget(self, engine: EngineHandle) -> None:  # noqa: B027
        """The engine left or restarted: what it held is gone."""
