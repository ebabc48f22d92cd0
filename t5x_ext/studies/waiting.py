"""Waiting for what another process of a study makes."""

from __future__ import annotations

import time

from t5x_ext.errors import TryAgain
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
