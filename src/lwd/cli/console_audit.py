"""Check the console's audit log: that no line was changed, and that none is missing that the store knows of.

The exit status is 1 where something is wrong.
"""

from pathlib import Path

from lwd.cli.options import RunOption, console, run_at
from lwd.errors import ConfigError


def run(run: RunOption = Path("runs/demo")) -> None:
    from lwd.console.audit_anchor import verify

    directory = run_at(run)
    path = directory.path / "console" / "audit.jsonl"
    if not path.exists():
        raise ConfigError(f"run {directory.path} has no audit log: no console has run yet")
    if findings := verify(path, directory.store()):
        raise ConfigError("\n".join(findings))
    console.print(f"{path} is as the store knows it")
