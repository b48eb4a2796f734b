"""An engine's price, as every request is charged by it."""

from __future__ import annotations

from stoker.router.config import Price


class Tariff:
    """The same figures as a `Price` of the configuration, for one token and one second."""

    __slots__ = ("cached_input", "input", "output", "per_hour", "second")

    def __init__(self, price: Price) -> None:
        cached = price.cached_input_per_million
        self.per_hour = price.per_hour
        self.input = price.input_per_million / 1e6
        self.cached_input = self.input if cached is None else cached / 1e6
        self.output = price.output_per_million / 1e6
        self.second = price.per_hour / 3600

    def of(
        self, prompt_tokens: int, output_tokens: int, seconds: float, cached_tokens: int = 0
    ) -> float:
        """The price of so much work; `seconds` of the whole engine's time. `cached_tokens` of
        the prompt had been computed before."""
        return (
            (prompt_tokens - cached_tokens) * self.input
            + cached_tokens * self.cached_input
            + output_tokens * self.output
            + seconds * self.second
        )
