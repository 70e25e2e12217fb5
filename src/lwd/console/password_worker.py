"""Checks passwords: `python -m lwd.console.password_worker`, a process of its own beside the console.

It answers each line on standard input, `{"hash", "password"}`, with `true` or `false`, and ends with its input. Argon2
takes 64 MiB and all cores for a moment: it shall take neither threads nor turns of the console's.
"""

import json
import sys

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError


def verify(password_hash: str, password: str) -> bool:
    """Return whether a password is the one that was hashed."""
    try:
        return PasswordHasher().verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(verify(asked["hash"], asked["password"])), flush=True)
