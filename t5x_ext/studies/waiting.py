"""Waiting for what another process of a study makes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from t5x_ext.errors import TryAgain
from t5x_ext.locks import DirectoryInUse, DirectoryLock
from t5x_ext.terminal import note

_WAIT_SECS = 5.0


class Patience:
    """How long a process waits for another: so many minutes without a sign of it.

    Args:
      minutes: at most, since the last new sign.
      advice: what to do once they are over; ends the error.
    """

    def __init__(self, minutes: float, advice: str) -> None:
        self._minutes = minutes
        self._advice = advice
        self._since = time.monotonic()
        self._told = -1
        self._sign: object = None

    def wait(self, what: str, sign: object = None) -> None:
        """Sleeps for seconds; says what for, at once and then every minute.

        Args:
          what: is waited for: "initial model base, which shard 1 makes".
          sign: anything that changes as the other process goes on.

        Raises:
          TryAgain: the time is over.
        """
        now = time.monotonic()
        if sign != self._sign:
            self._since, self._sign, self._told = now, sign, -1
        minutes = (now - self._since) / 60
        if minutes >= self._minutes:
            raise TryAgain(
                f"{what}, and not there after {minutes:.0f} minutes (--wait_minutes); "
                f"{self._advice}"
            )
        if int(minutes) > self._told:
            self._told = int(minutes)
            note(f"waiting for {what}; {self._told} of {self._minutes:g} minutes")
        time.sleep(_WAIT_SECS)


@contextlib.contextmanager
def held(directory: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Holds a directory while its body runs, after the process that holds it now.

    That process is alive, as the lock of one that ends is free, so this waits for it without limit.
    It may have finished the work meanwhile, so the body checks that first.

    Args:
      directory: created if absent.
      what: is made there, for the line that says what is waited for.

    Raises:
      ConfigError: nothing can be written there.
    """
    lock, waiting = None, False
    while lock is None:
        try:
            lock = DirectoryLock(directory)
        except DirectoryInUse as error:
            if not waiting:
                note(f"waiting for {what}: {error}")
            waiting = True
            time.sleep(_WAIT_SECS)
    try:
        yield
    finally:
        lock.release()
