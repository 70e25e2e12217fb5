"""How long to rest after a failure: exponential backoff with full jitter."""

import random

FIRST_S, MOST_S = 0.5, 60.0


class Backoff:
    """The rest after n failures in a row is uniform in [0.1 first_s, min(most_s, first_s * 2^(n - 1))].

    A short outage costs a short rest; a fleet that lost its store together does not come back as one.
    """

    def __init__(self, *, first_s: float = FIRST_S, most_s: float = MOST_S) -> None:
        self._first_s, self._most_s = first_s, most_s
        self.failures = 0

    def failed(self) -> float:
        """Count a failure; return for how long to rest."""
        # 2^30 is far beyond any cap; without the bound, days of failures make a number too large for a float.
        most_s = min(self._most_s, self._first_s * 2 ** min(self.failures, 30))
        self.failures += 1
        return random.uniform(0.1 * self._first_s, most_s)

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures = 0
