"""Making the next batches while the last one is used."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class _End:
    """What comes after the last item."""


_END = _End()


def prefetch(source: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """Yields from `source`, made up to `depth` items ahead in one background thread.

    Order is kept, and an error in the source is raised at its place. A consumer that stops early
    (`close`, or dropping the iterator) never waits for the thread, which ends after the item it
    is making: a finaliser may run in any thread, where waiting could deadlock. The interpreter
    does wait for it before it exits: a thread that it has to cut off inside native code, as it does
    with daemons, aborts the whole process ("terminate called ... exception not rethrown").
    """
    is_finalizing = sys.is_finalizing  # the interpreter clears modules before its last generators
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        ahead = deque(executor.submit(next, source, _END) for _ in range(depth))
        while not isinstance(item := ahead.popleft().result(), _End):
            ahead.append(executor.submit(next, source, _END))
            yield item
    finally:
        if not is_finalizing():  # else the thread has been joined
            executor.shutdown(wait=False, cancel_futures=True)
