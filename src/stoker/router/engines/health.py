"""An engine's health, from probes, with hysteresis."""

from __future__ import annotations

from stoker.router.config import Health


class HealthState:
    """Healthy after `passes` probes in a row, unhealthy after `fails` in a row.

    An engine never probed is not healthy; its very first probe decides alone, so that a fleet
    is ready as soon as it answers.
    """

    __slots__ = ("_config", "_fails", "_passes", "healthy", "probed", "reason", "was_healthy")

    def __init__(self, config: Health) -> None:
        self._config = config
        self.healthy = False
        self.was_healthy = False
        """Since its process was last known to have ended."""
        self.probed = False
        self.reason = "not probed yet"
        self._fails = 0
        self._passes = 0

    def passed(self) -> bool:
        """Record a good probe. True when this made the engine healthy."""
        self._fails = 0
        self._passes += 1
        became = not self.healthy and (not self.probed or self._passes >= self._config.passes)
        self.probed = True
        if became:
            self.healthy = self.was_healthy = True
            self.reason = ""
        return became

    def failed(self, reason: str) -> bool:
        """Record a bad probe. True when this made a healthy engine unhealthy."""
        self._passes = 0
        self._fails += 1
        became = self.healthy and self._fails >= self._config.fails
        self.probed = True
        if became:
            self.healthy = False
        if not self.healthy:
            self.reason = reason
        return became

    def down(self, reason: str) -> bool:
        """Known to be down without a probe; the next good probe brings it back. True when this
        made a healthy engine unhealthy."""
        became = self.healthy
        self.healthy = self.was_healthy = False
        self.probed = False
        self._passes = 0
        self.reason = reason
        return became
