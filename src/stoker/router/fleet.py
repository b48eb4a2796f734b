"""The engines, by name and by the models they serve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stoker.router.config import Config
from stoker.router.engines.handle import EngineHandle, EngineModel


class Fleet:
    """Every engine the router knows, and which of them serve a model."""

    def __init__(self, config: Config) -> None:
        self._default_model = config.default_model
        self._aliases: Mapping[str, str] = dict(config.aliases)
        self.engines: dict[str, EngineHandle] = {
            engine.name: EngineHandle(engine, config.breaker, config.health)
            for engine in config.engines
        }
        self._by_model: dict[str, tuple[EngineHandle, ...]] = {}
        self._index()

    @property
    def models(self) -> Mapping[str, Sequence[EngineHandle]]:
        """Each model's name, and the engines that serve it."""
        return self._by_model

    @property
    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def names(self) -> list[str]:
        """What a client may ask for: models and aliases."""
        return sorted({*self._by_model, *self._aliases})

    def resolve(self, name: str | None) -> str | None:
        """The model meant by what a client asked for; None when it named none and there is no
        telling: no default, and not exactly one model."""
        if name is None:
            if self._default_model is not None:
                name = self._default_model
            elif len(self._by_model) == 1:
                return next(iter(self._by_model))
            else:
                return None
        return self._aliases.get(name, name)

    def serving(self, model: str) -> tuple[EngineHandle, ...]:
        """The engines that serve a model, whatever their state."""
        return self._by_model.get(model, ())

    def set_models(self, engine: EngineHandle, models: Iterable[tuple[str, EngineModel]]) -> None:
        """Record what an engine says it serves."""
        found = dict(models)
        if found != engine.models:
            engine.models = found
            self._index()

    def _index(self) -> None:
        by_model: dict[str, list[EngineHandle]] = {}
        for engine in self.engines.values():
            for name in engine.models:
                by_model.setdefault(name, []).append(engine)
        self._by_model = {name: tuple(engines) for name, engines in sorted(by_model.items())}
