"""Event loops that end what they have begun.

Orbax writes the arrays of a checkpoint side by side in an event loop of a thread, and closes the
loop at the first write that fails. TensorStore then has nowhere to report the other writes, and
prints a page of "Event loop is closed" for every one, around the one line that says what happened.
"""

from __future__ import annotations

import asyncio
import threading


class _PatientLoop(asyncio.SelectorEventLoop):
    def close(self) -> None:
        if not self.is_closed() and (pending := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        super().close()


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        if threading.current_thread() is threading.main_thread():
            return super().new_event_loop()
        return _PatientLoop()


def finish_before_closing() -> None:
    """Makes event loops of other threads than the main one wait for their tasks when closed.

    A loop that `asyncio.run` closes has none left. A policy that somebody has set stays.
    """
    policy = asyncio.get_event_loop_policy()
    if type(policy) is asyncio.DefaultEventLoopPolicy:
        asyncio.set_event_loop_policy(_Policy())
