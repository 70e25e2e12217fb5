"""How many messages of one sender count: token buckets, for as many senders as there is room for."""

import time
from collections import OrderedDict
from collections.abc import Callable


class TokenBucket:
    """Lets `rate_hz` pass on average, and `burst` at once."""

    __slots__ = ("_at_s", "_burst", "_clock", "_rate_hz", "_tokens")

    def __init__(self, rate_hz: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_hz, self._burst, self._clock = rate_hz, burst, clock
        self._tokens, self._at_s = burst, clock()

    def take(self, cost: float = 1.0) -> bool:
        """Return whether one more may pass now, which counts as `cost`."""
        now_s = self._clock()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate_hz)
        self._at_s = now_s
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True


class TokenBuckets:
    """A bucket for each sender; beyond `most` senders the one that was silent for longest begins anew."""

    def __init__(
        self, rate_hz: float, burst: float, *, most: int = 1024, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate_hz, self._burst, self._most, self._clock = rate_hz, burst, most, clock
        self._buckets: OrderedDict[object, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, sender: object, cost: float = 1.0) -> bool:
        """Return whether one more of this sender may pass now, which counts as `cost`."""
        bucket = self._buckets.get(sender)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._buckets.popitem(last=False)
            bucket = self._buckets[sender] = TokenBucket(self._rate_hz, self._burst, clock=self._clock)
        else:
            self._buckets.move_to_end(sender)
        return bucket.take(cost)
