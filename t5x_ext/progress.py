"""Lines about work that takes minutes."""

from __future__ import annotations

import collections
import time
from typing import Any

from t5x_ext.terminal import note

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

    Args:
        what: the work.
        total: units of it.
        unit: their name, in the plural.
        silent: say nothing at all, as processes other than the first do.
    """

    def __init__(self, what: str, total: int, unit: str, silent: bool = False) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._silent = silent
        self._began = self._said = time.monotonic()
        self._asked: collections.deque[tuple[int, Any]] = collections.deque()
        self._done = 0

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
        now = time.monotonic()
        if now - self._said < QUIET_SECS:
            return
        self._said = now
        line = f"{self._what}: {self._done:,}/{self._total:,} {self._unit}"
        if self._done:
            left = (now - self._began) / self._done * (self._total - self._done)
            line += f"  ETA {duration(left)}"
        note(line)
