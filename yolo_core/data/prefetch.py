"""Work done ahead of its consumer by a few threads, in order and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> Iterator[Result]:
    """Yield ``work(item)`` for each item, in order, computed ahead by ``threads`` threads.

    At most ``threads`` + 1 results wait for the consumer or are being made. An error in ``work``
    is raised where the consumer would get that result. Closing the iterator (a ``break`` out of a
    for loop does) drops what has not begun and waits for what has, so no thread is left behind.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    waiting = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    pending: deque[Future[Result]] = deque()
    try:
        pending.extend(pool.submit(work, item) for item in islice(waiting, threads + 1))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(work, item) for item in islice(waiting, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
