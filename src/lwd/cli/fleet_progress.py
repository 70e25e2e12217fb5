"""What `lwd up` shows while the fleet learns: fleet steps from the learner's metrics, events of the processes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lwd.cli.options import progress, status
from lwd.recipes.run_directory import RunDirectory

_LOOK_EVERY_S = 1.0
_MANY_VERSIONS = 10
"""Published policies that robots may be behind before it is said: running and travelling episodes are some."""


@contextmanager
def watch_fleet(run: RunDirectory, env_steps: int) -> Iterator[Callable[[str], None]]:
    """Yield a function that prints events above a bar of the fleet's steps."""
    done = threading.Event()
    with progress("fleet steps") as bar:

        def look() -> None:
            warned = False
            while not done.wait(_LOOK_EVERY_S):
                row = _last_row(run.path / "metrics" / "learner.jsonl")
                if row is None or row["stage"] != "online":
                    continue
                metrics = row["metrics"]
                bar(
                    int(metrics["replay/env_steps"]),
                    env_steps,
                    f"episodes {metrics['replay/episodes']:.0f}  updates {row['update']}  "
                    f"policy {row['policy_version']}",
                )
                if not warned and (warning := behind(row, env_steps)):
                    warned = True
                    status.print(f"[yellow]{warning}[/yellow]", highlight=False, soft_wrap=True)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield lambda event: status.print(event, style="dim", highlight=False, soft_wrap=True)
        finally:
            done.set()
            watcher.join()


def behind(row: dict, env_steps: int) -> str:  # type: ignore[type-arg]
    """Return a warning if the robots' policy is far behind the newest one, or nothing.

    Args:
        row: of the learner's metrics.
        env_steps: of the whole stage.
    """
    newest, done = row["policy_version"], row["metrics"]
    acting = done.get("replay/acting_policy")
    if acting is None or acting < 0:
        return ""
    lags = newest - acting > _MANY_VERSIONS and 2 * acting < newest
    first_only = acting == 0 and 2 * done["replay/env_steps"] >= env_steps
    if not lags and not first_only:
        return ""
    return (
        f"robots act with policy {acting:.0f}, the newest is {newest}: {done['replay/episodes']:.0f} episodes and "
        f"{done['replay/env_steps']:.0f} of {env_steps} fleet steps are there after {row['update']} updates. The fleet "
        "is faster than the learner; use fewer --robots, or more --env-steps, to learn from what newer policies do"
    )


def _last_row(path: Path) -> dict | None:  # type: ignore[type-arg]
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().split(b"\n")[:-1]
    return json.loads(lines[-1]) if lines else None
