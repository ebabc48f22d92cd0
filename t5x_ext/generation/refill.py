"""Both stages in turn, until there are as many rows as wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

WriteTasks = Callable[[int], Counter[str]]
WriteRows = Callable[[], Counter[str]]


class Refilled(NamedTuple):
    """What came of both stages.

    Attributes:
        tasks: 'kept', and dropped by reason; see `write_instructions`.
        rows: likewise, of answers; empty where no task was kept.
    """

    tasks: Counter[str]
    rows: Counter[str]


def refill(write_tasks: WriteTasks, write_rows: WriteRows, count: int) -> Refilled:
    """Replaces tasks whose answers were dropped by further tasks.

    Args:
        write_tasks: writes tasks up to a number; see `write_instructions`.
        write_rows: answers them; see `write_responses`.
        count: rows wanted.

    Returns:
        The last counts of both; fewer than `count` rows are kept only where no more tasks came.
    """
    wanted = count
    while True:
        tasks = write_tasks(wanted)
        if not tasks["kept"]:
            return Refilled(tasks, Counter())
        rows = write_rows()
        missing = count - rows["kept"]
        if missing <= 0 or tasks["kept"] < wanted:
            return Refilled(tasks, rows)
        wanted = tasks["kept"] + missing
