"""A stage under a progress bar that Ctrl-C ends cleanly."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lwd.cli.options import next_step, progress, status
from lwd.learner.checkpoint import Checkpoint
from lwd.learner.loop import UpdateResult
from lwd.recipes.interrupt import StopRequest
from lwd.recipes.prefix_cache import PrefixCache
from lwd.recipes.stages import Control


@contextmanager
def watched(name: str, metric: str, device: str, *, prefix_cache: PrefixCache | None = None) -> Iterator[Control]:
    """Yield a control that shows `metric` beside the bar and stops the stage on Ctrl-C, with a checkpoint."""
    with StopRequest() as request, progress(name) as bar:

        def watch(result: UpdateResult, total: int) -> None:
            if result.update % 10 == 0 or result.update == total:
                bar(result.update, total, f"{metric} {result.metrics.get(metric, float('nan')):.3f}")

        yield Control(watch=watch, stop=lambda: request.stop, device=device, prefix_cache=prefix_cache)


def finish(checkpoint: Checkpoint, then: Callable[[], str]) -> None:
    """Say what to do next.

    Args:
        then: says it; not called if the stage was stopped.
    Raises:
        KeyboardInterrupt: if the stage was stopped before its end.
    """
    if not checkpoint.progress.finished:
        status.print(f"{checkpoint.progress.stage} stopped at update {checkpoint.progress.update}; that is saved")
        raise KeyboardInterrupt
    next_step(then())
