"""Options whose value is a JSON object: settings of somebody else's that we pass on unread."""

import json
from typing import Any

from lwd.errors import ConfigError


def json_object(text: str, option: str) -> dict[str, Any]:
    """Read an option's value.

    Raises:
        ConfigError: if it is no JSON object.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is no JSON ({error}): give such as '{{\"a\": 1}}'") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{option} {text!r} is no JSON object: give such as '{{\"a\": 1}}'")
    return found
