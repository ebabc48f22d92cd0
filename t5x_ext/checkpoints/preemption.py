"""Notice of a coming shutdown: SIGTERM becomes a question the train loop asks at each step."""

from __future__ import annotations

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class PreemptionGuard:
    """Remembers SIGTERM, so that the loop can save and leave at a step boundary.

        with PreemptionGuard() as guard:
            for step in ...:
                state = train_step(state)
                if guard.should_stop():
                    break  # save, then exit 0

    With several processes JAX's own service listens for the signal instead, and makes all
    processes stop at the same step although only one of them may have been signalled.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._previous: signal._HANDLER = None
        self._installed = False
        self._times_asked = 0

    def __enter__(self) -> PreemptionGuard:
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._remember)
            self._installed = True
        return self

    def __exit__(self, *exception: object) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, self._previous)
            self._installed = False

    def should_stop(self) -> bool:
        """Whether to save and stop now. With several processes, all must ask equally often."""
        if jax.process_count() == 1:
            return self._signalled
        # JAX waits for equality with a count from 1. The training step will not do: a resumed
        # run is beyond it already if the signal came before its first step.
        self._times_asked += 1
        return multihost_utils.reached_preemption_sync_point(self._times_asked)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._signalled = True
