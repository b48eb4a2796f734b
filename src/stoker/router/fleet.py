"""The engines, by name and by the models they serve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stoker.router.config import Config
from stoker.router.engines.handle import EngineHandle, EngineModel


class Fleet:
    """Every engine the router knows, and which of them serve a model."""

    def __init__(self, config: Config, now: float = 0.0) -> None:
        """`now`: the loop's clock; engines count as down from then on until a probe passes."""
        self.engines: dict[str, EngineHandle] = {}
        self._by_model: dict[str, tuple[EngineHandle, ...]] = {}
        self.known: dict[str | None, tuple[str, tuple[EngineHandle, ...]]] = {}
        """What was asked for → the model meant, and the engines that serve it; of what was asked
        for since the fleet last changed."""
        self._expected: dict[str, float] = {}
        self._config = config.model_copy(update={"engines": ()})
        self._aliases: dict[str, str] = {}
        self.replace(config, self.prepare(config, now))

    def prepare(self, config: Config, now: float) -> dict[str, EngineHandle]:
        """The engines of another configuration, by name, for `replace`.

        An engine whose settings changed in any way is another engine from then on: requests
        that the old one has are finished under the old settings.
        """
        before, old = self._config, {engine.name: engine for engine in self._config.engines}
        same_rules = (config.breaker, config.health) == (before.breaker, before.health)
        handles = {}
        for engine in config.engines:
            if same_rules and old.get(engine.name) == engine:
                handles[engine.name] = self.engines[engine.name]
            else:
                handle = handles[engine.name] = EngineHandle(engine, config.breaker, config.health)
                handle.down_since = now
        return handles

    def replace(self, config: Config, engines: dict[str, EngineHandle]) -> list[EngineHandle]:
        """Make the fleet what `config` says; the engines that are no longer in it."""
        gone = [handle for handle in self.engines.values() if handle not in engines.values()]
        self.engines = engines
        self._config = config
        self._aliases = dict(config.aliases)
        self._index()
        return gone

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
            if self._config.default_model is not None:
                name = self._config.default_model
            elif len(self._by_model) == 1:
                return next(iter(self._by_model))
            else:
                return None
        return self._aliases.get(name, name)

    def serving(self, model: str) -> tuple[EngineHandle, ...]:
        """The engines that serve a model, whatever their state."""
        return self._by_model.get(model, ())

    def note(self, asked: str | None, model: str) -> None:
        """Know at once, the next time, which model is meant, and who serves it."""
        engines = self.serving(model)
        if engines:
            self.known[asked] = (model, engines)

    def expect(self, models: Iterable[str], now: float, until: float) -> None:
        """Engines of these models left, and others may come: requests may wait for them until
        then, on the loop's clock."""
        self._expected = {name: end for name, end in self._expected.items() if end > now}
        self._expected.update(dict.fromkeys(models, until))

    def expects(self, model: str, now: float) -> bool:
        """Whether a model that nobody serves may soon be served again."""
        return self._expected.get(model, now) > now

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
        self.known.clear()
        self._by_model = {name: tuple(engines) for name, engines in sorted(by_model.items())}
