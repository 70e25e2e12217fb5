"""Copy a store: a backup of a running fleet's, a restore, or the move from a directory to S3.

Nothing in the target is ever overwritten, every episode and policy is checked against its committed hash, and the
target is a consistent store at every moment, so a command that was stopped continues, and a repeated one brings
over what is new. To move a fleet: copy while it runs, stop it, copy again, start it on the new store.
Credentials of S3 come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment.
"""

from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.data_options import size_in_words
from lwd.cli.options import console, next_step, progress
from lwd.data.copying import copy_store
from lwd.data.store import StoreConfig, open_store, probe_store
from lwd.errors import ConfigError


def run(
    from_url: Annotated[
        str, tyro.conf.arg(name="from", metavar="URL", help="store to copy: a directory such as RUN/store, or s3://...")
    ],
    to_url: Annotated[
        str,
        tyro.conf.arg(name="to", metavar="URL", help="where to: a directory (made if needed) or s3://bucket/prefix"),
    ],
    from_option: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="[NAME=VALUE ...]", help="settings of the first store, such as endpoint=URL; none: AWS_*"
        ),
    ] = (),
    to_option: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="[NAME=VALUE ...]", help="settings of the second store, likewise; none: AWS_*"),
    ] = (),
    verify: Annotated[
        bool, tyro.conf.arg(help="also read back and check what earlier copies have put into the target")
    ] = False,
) -> None:
    if "://" not in from_url and not Path(from_url).is_dir():
        raise ConfigError(f"there is no directory {from_url} to copy from: give a store, such as RUN/store")
    source = open_store(_config("from", from_url, from_option))
    target = open_store(_config("to", to_url, to_option))
    probe_store(target)
    with progress("copy") as bar:
        result = copy_store(source, target, verify=verify, on_copied=bar)
    console.print(
        f"{to_url} is at version {result.version} with {result.episodes} episodes: {result.copied} objects copied "
        f"({size_in_words(result.copied_bytes)}), {result.present} were there",
        soft_wrap=True,
    )
    next_step("repeat it to bring over what is new; stop the fleet before the last time if you move it")


def _config(name: str, url: str, options: tuple[str, ...]) -> StoreConfig:
    pairs = [option.partition("=") for option in options]
    wrong = [option for option, (key, equals, _) in zip(options, pairs, strict=True) if not (key and equals)]
    if wrong:
        raise ConfigError(f"{name}_option {wrong[0]!r} is not NAME=VALUE: give such as endpoint=http://127.0.0.1:8333")
    return StoreConfig(url=url, options={key: value for key, _, value in pairs})
