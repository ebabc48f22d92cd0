"""Making the next batches while the last one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

T = TypeVar("T")

_END = object()


def prefetch(source: Iterator[T], depth: int = 2) -> Generator[T, None, None]:
    """Yields from `source`, made up to `depth` items ahead in one background thread.

    Order is kept, and an error in the source is raised at its place. A consumer that stops early
    (`close`, or dropping the iterator) never waits for the thread, which ends after the item it
    is making: a finaliser may run in any thread, where waiting could deadlock.
    """
    items: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def work() -> None:
        error = None
        try:
            for item in source:
                items.put((item, None))
                if stopped.is_set():
                    return
        except BaseException as raised:
            error = raised
        items.put((_END, error))

    threading.Thread(target=work, name="prefetch", daemon=True).start()
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        # A full queue would hold the thread for ever; one free place lets it see the event.
        while not items.empty():
            items.get_nowait()
