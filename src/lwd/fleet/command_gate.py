"""Which operators' commands of one robot are read: those of whoever holds the lease first, of everybody else some."""

import re
from collections.abc import Callable

from lwd.fleet.rate_limit import TokenBucket, TokenBuckets

_HOLDER_HZ, _HOLDER_AT_ONCE = 200.0, 200
_OTHERS_HZ, _OTHERS_AT_ONCE = 60.0, 120
_ONE_HZ, _ONE_AT_ONCE = 20.0, 40
"""Of one client without the lease; it asks for a robot, and repeats what it sent as its lease ended."""
_CLIENTS = 256
_CLIENT = re.compile(rb'"client_id"\s*:\s*"([A-Za-z0-9._-]{1,128})"')


class CommandGate:
    """Looks at unread bytes, so that a command that does not count costs microseconds."""

    def __init__(self, holder: Callable[[], str]) -> None:
        """
        Args:
            holder: returns the client that holds the robot's lease; empty: nobody.
        """
        self._holder = holder
        self._of_holder = TokenBucket(_HOLDER_HZ, _HOLDER_AT_ONCE)
        self._of_others = TokenBucket(_OTHERS_HZ, _OTHERS_AT_ONCE)
        self._of_each = TokenBuckets(_ONE_HZ, _ONE_AT_ONCE, most=_CLIENTS)

    def admits(self, data: bytes) -> bool:
        """Whether this command may be read."""
        found = _CLIENT.search(data[:4096])
        if found is None:
            return False
        holder = self._holder().encode()
        if holder and found[1] == holder:
            return self._of_holder.take()
        return self._of_each.take(found[1]) and self._of_others.take()
