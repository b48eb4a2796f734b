"""Which kind of engine suits a request, and of that kind the one that answers first.

The rules, in order; each narrows the choice if it leaves an engine to choose:

1. what the request needs: context long enough, images, tools, a schema;
2. a low urgency goes to the cheapest, where prices are declared;
3. a high urgency goes to a GPU if one is below `GPU_LOAD`, else to a CPU;
4. everything else goes to a GPU if there is one: long work (a prompt over `LONG_PROMPT_WORDS`
   words, or more than `LONG_OUTPUT_TOKENS` to generate) because a CPU would be slow, the rest
   because it is free.

Among the engines left, `Cost` decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.policies.cost import Cost
from stoker.router.policies.work import rates_of
from stoker.router.request import Features, Urgency

GPU_LOAD = 0.7
LONG_PROMPT_WORDS = 100
LONG_OUTPUT_TOKENS = 1024


class Auto(Policy):
    name = "auto"

    def __init__(self) -> None:
        self._cost = Cost()

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        able, why_able = _able(features, engines)
        suited, why_suited = _suited(features, able)
        decision = self._cost.choose(features, suited)
        reasons = [why for why in (why_able, why_suited) if why]
        reason = f"auto: {'; '.join([*reasons, decision.reason])}"
        return Decision(decision.engine, reason, decision.known_tokens)

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._cost.placed(features, engine)

    def forget(self, engine: EngineHandle) -> None:
        self._cost.forget(engine)


def _able(
    features: Features, engines: Sequence[EngineHandle]
) -> tuple[Sequence[EngineHandle], str]:
    """The engines that can do what the request needs, as far as is known."""
    if any(engine.abilities is not None for engine in engines):
        needs = features.needs
        able = [engine for engine in engines if engine.can(needs)]
        if able and len(able) < len(engines):
            return able, f"needs {', '.join(sorted(needs))}"
    tokens = features.prompt_tokens + (features.max_tokens or 0)
    enough = [engine for engine in engines if engine.fits(features.model, tokens)]
    if enough and len(enough) < len(engines):
        return enough, f"about {tokens} tokens of context"
    return engines, ""


def _suited(
    features: Features, engines: Sequence[EngineHandle]
) -> tuple[Sequence[EngineHandle], str]:
    """The engines of the kind that suits the request's urgency and length."""
    if features.urgency in (Urgency.LOW, Urgency.BATCH):
        cheapest = _cheapest(features, engines)
        if cheapest:
            return cheapest, "not urgent, so the cheapest"
    gpus = [engine for engine in engines if engine.gpu]
    cpus = [engine for engine in engines if not engine.gpu]
    if not gpus or not cpus:
        return engines, ""
    if features.urgency is Urgency.HIGH:
        free = [engine for engine in gpus if engine.busy < GPU_LOAD]
        if free:
            return free, "urgent, and a GPU is free"
        return cpus, f"urgent, and all GPUs are at {GPU_LOAD:.0%} or more"
    if (features.max_tokens or 0) > LONG_OUTPUT_TOKENS:
        return gpus, f"more than {LONG_OUTPUT_TOKENS} tokens to write, so a GPU"
    if features.words > LONG_PROMPT_WORDS:
        return gpus, f"more than {LONG_PROMPT_WORDS} words to read, so a GPU"
    return gpus, "there is a GPU"


def _cheapest(features: Features, engines: Sequence[EngineHandle]) -> list[EngineHandle]:
    """The engines with the lowest price for this request; none unless all have a price."""
    prices = []
    for engine, rates in zip(engines, rates_of(engines), strict=True):
        if engine.price is None:
            return []
        prompt, output = features.prompt_tokens, features.output_tokens
        seconds = prompt / rates[0] + output / rates[1]
        prices.append(engine.price.of(prompt, output, seconds))
    least = min(prices)
    return [engine for engine, price in zip(engines, prices, strict=True) if price == least]
