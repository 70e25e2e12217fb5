"""The scale of QAM's temperature: how much Q differs among the actions the reference would take."""

from lwd.errors import ConfigError


class QSpread:
    """Tracks the std of Q over reference actions at a state, averaged over states.

    A temperature far above the spread leaves the reference as it is; one far below follows the critic's errors.
    """

    def __init__(self, *, rate: float = 0.1, floor: float = 1e-4) -> None:
        if not 0 < rate <= 1:
            raise ConfigError(f"rate is {rate}; a tracking rate lies in (0, 1]")
        self.rate = rate
        self.floor = floor
        """Keeps the temperature positive while an untrained critic says the same of every action."""
        self.value: float | None = None

    def add(self, spread: float) -> None:
        """Take in one measurement; the first one sets the value."""
        self.value = spread if self.value is None else (1 - self.rate) * self.value + self.rate * spread

    def temperature(self, fraction: float) -> float:
        """Return fraction * spread.

        Raises:
            ConfigError: if nothing was measured yet.
        """
        if self.value is None:
            raise ConfigError("the spread of Q was never measured; measure it before asking for a temperature")
        return max(fraction * self.value, self.floor)
