"""What `lwd up` shows while the fleet learns: fleet steps from the learner's metrics, events of the processes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lwd.cli.options import progress, status
from lwd.recipes.run_directory import RunDirectory

_LOOK_EVERY_S = 1.0


@contextmanager
def watch_fleet(run: RunDirectory, env_steps: int) -> Iterator[Callable[[str], None]]:
    """Yield a function that prints events above a bar of the fleet's steps."""
    done = threading.Event()
    with progress("fleet steps") as bar:

        def look() -> None:
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

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield lambda event: status.print(event, style="dim", highlight=False, soft_wrap=True)
        finally:
            done.set()
            watcher.join()


def _last_row(path: Path) -> dict | None:  # type: ignore[type-arg]
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().split(b"\n")[:-1]
    return json.loads(lines[-1]) if lines else None
