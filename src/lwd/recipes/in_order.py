"""Work on all cores whose results come in their order, with few of them in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_MOST = 8
Given = TypeVar("Given")
Made = TypeVar("Made")


def in_order(work: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """Yield `work` of each item, in their order; threads work ahead on as many items as there are cores, 8 at most.

    For work that spends its time in libraries that let other threads run. The first error is raised in its place; when
    the caller stops, by an error or Ctrl-C, what has not begun is dropped and what has is waited for.
    """
    cores = min(os.cpu_count() or 1, _MOST)
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(cores, thread_name_prefix="lwd-in-order")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
