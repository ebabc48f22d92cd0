"""Lines about work that takes minutes."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

from t5x_ext import multihost
from t5x_ext.terminal import note

T = TypeVar("T")

QUIET_SECS = 60  # longest time without a line
_AHEAD = 4  # units that a device may be asked for before it has them: it never idles, none piles up


def duration(secs: float) -> str:
    """'4m10s', '2h05m', '9s'."""
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


class MinuteNotes:
    """Says every minute how far some work is, and nothing about work of less than a minute:

        tuning writing_alpaca n250 seed 0: 17/100 steps  ETA 4m10s

    As a context manager it does so in units of more than a minute too. Of several processes only
    the first says anything.

    Args:
        what: the work.
        total: units of it; None where nobody knows.
        unit: their name, in the plural.
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._silent = not multihost.is_primary()
        self._began = self._said = time.monotonic()
        self._asked: collections.deque[tuple[int, Any]] = collections.deque()
        self._done = self._found = 0
        self._speaking, self._ended = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        self._ended.clear()
        if not self._silent:
            threading.Thread(target=self._speak, name="progress", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._speaking:  # after the last line
            self._ended.set()

    def find(self, done: int) -> None:
        """Counts units that an earlier run has finished, which tell nothing about this one's speed.

        Args:
            done: their number.
        """
        self._done = self._found = done
        self._began = time.monotonic()

    def count(self, done: int, result: Any = None) -> None:
        """Counts finished units, all so far.

        Args:
            done: their number.
            result: a jax.Array that the last of them computes. A device takes in dozens of units
                before it has computed one, half an hour of them on a CPU: units count once their
                result is there, and more than a few that are not are waited for.
        """
        if self._silent:
            return
        if result is None:
            self._done = done
        else:
            self._asked.append((done, result))
            while self._asked and (len(self._asked) > _AHEAD or self._asked[0][1].is_ready()):
                self._done, oldest = self._asked.popleft()
                oldest.block_until_ready()
        self._say_if_due()

    def _speak(self) -> None:
        while not self._ended.wait(QUIET_SECS / 4):
            self._say_if_due()

    def _say_if_due(self) -> None:
        with self._speaking:
            now = time.monotonic()
            if now - self._said < QUIET_SECS or self._ended.is_set():
                return
            self._said = now
            of_total = "" if self._total is None else f"/{self._total:,}"
            line = f"{self._what}: {self._done:,}{of_total} {self._unit}"
            new = self._done - self._found
            if new and self._total is not None:
                left = (now - self._began) / new * max(0, self._total - self._done)
                line += f"  ETA {duration(left)}"
            note(line)


def counted(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """The same items, and every minute a line about how many there were; see `MinuteNotes`."""
    with MinuteNotes(what, total, unit) as progress:
        for number, item in enumerate(items, start=1):
            yield item
            progress.count(number)
