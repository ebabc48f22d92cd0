"""Both stages in turn, until there are as many rows as wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

WriteTasks = Callable[[int], Counter[str]]
WriteRows = Callable[[], Counter[str]]


def refill(write_tasks: WriteTasks, write_rows: WriteRows, count: int) -> Counter[str]:
    """Replaces tasks whose answers were dropped by further tasks.

    Args:
        write_tasks: writes tasks up to a number; see `write_instructions`.
        write_rows: answers them; see `write_responses`.
        count: rows wanted.

    Returns:
        The last counts of `write_rows`; fewer than `count` are kept only where no more tasks came.
    """
    wanted = count
    while True:
        tasks = write_tasks(wanted)
        rows = write_rows()
        missing = count - rows["kept"]
        if missing <= 0 or tasks["kept"] < wanted:
            return rows
        wanted = tasks["kept"] + missing
