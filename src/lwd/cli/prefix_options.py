"""Options of the stages that can keep prefixes of a frozen backbone."""

from pathlib import Path
from typing import Annotated

import tyro

from lwd.errors import ConfigError
from lwd.recipes.prefix_cache import PrefixCache

PrefixCacheOption = Annotated[
    float | None,
    tyro.conf.arg(
        metavar="GB",
        help="disk for what a frozen vision-language model makes of each frame, so that it is computed once and not at "
        "every update; None: nothing is kept",
    ),
]
PrefixDirectoryOption = Annotated[
    Path | None, tyro.conf.arg(metavar="PATH", help="local directory of --prefix-cache; None: RUN/prefixes")
]


def cache_of(gigabytes: float | None, directory: Path | None, run: Path) -> PrefixCache | None:
    """Return the prefix cache that is asked for.

    Raises:
        ConfigError: if only a directory is given.
    """
    if gigabytes is not None:
        return PrefixCache(gigabytes=gigabytes, directory=directory or run / "prefixes")
    if directory is not None:
        raise ConfigError("--prefix-directory is of --prefix-cache: give its size in GB, too, or leave it out")
    return None
