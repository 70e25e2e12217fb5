"""Verbs of ours as processes of their own, and copies of what they share: what the experiments are built from."""

import os
import shutil
import sys
from pathlib import Path

from lwd.data import durable


def verb_command(*arguments: str) -> tuple[str, ...]:
    """The command line of a verb, with this process's interpreter."""
    return (sys.executable, "-m", "lwd", *arguments)


def link_tree(source: Path, target: Path) -> None:
    """Give `target` a directory's files, unless it is there already. They never change, so hard links do.

    A crash leaves the whole directory or none of it.
    """
    if target.exists():
        return
    staging = target.parent / f".{target.name}-copy"
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(source, staging, copy_function=os.link)
    durable.move(staging, target)
