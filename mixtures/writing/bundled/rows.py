"""The rows of the writing suite by task and split.

python -m mixtures.writing --out=DIR        writes them as <task>.<split>.jsonl
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from mixtures.bundled.draws import Draw
from mixtures.release import BUNDLED_SUITE, Release
from mixtures.writing.bundled.edits import EDIT_TASKS
from mixtures.writing.bundled.generic import generic
from mixtures.writing.layouts import Item
from mixtures.writing.sets import GENERIC

SEED = "t5x_ext writing suite 1"
SIZES = {"test": 200, "validation": 100, "train": 3000}  # in the order in which they are drawn
_SUITE_ROWS_PER_TASK = 20  # of each train-track task of the bundled suite, besides the generic rows


@functools.lru_cache
def bundled_items(task: str, split: str) -> tuple[Item, ...]:
    """The rows of a split; no input (or instruction without input) is in two of them.

    Args:
        task: one of `INSTRUCTIONS`, or "generic", whose train split has the bundled suite's rows
            as well.
        split: "train", "validation" or "test".
    """
    make = generic if task == GENERIC else EDIT_TASKS[task]
    start = sum(SIZES[earlier] for earlier in list(SIZES)[: list(SIZES).index(split)])
    drawn = _different(task, make, sum(SIZES.values()))[start : start + SIZES[split]]
    found = [
        dataclasses.replace(item, id=f"{task}-{split}-{number}")
        for number, item in enumerate(drawn)
    ]
    if task == GENERIC and split == "train":
        found += _suite_items()
    return tuple(found)


@functools.lru_cache
def _different(task: str, make: Callable[[Draw], Item], count: int) -> tuple[Item, ...]:
    """Items of `count` different inputs, or as many as 20 draws for each of them give."""
    draw = Draw(f"{SEED}/{task}")
    items: dict[tuple[str, str], Item] = {}
    for _ in range(20 * count):
        item = make(draw)
        items.setdefault((item.instruction, item.source), item)
        if len(items) == count:
            break
    return tuple(items.values())


def _suite_items() -> list[Item]:
    """The first rows of each train-track task of the bundled suite, its definition said first."""
    suite = Release(BUNDLED_SUITE)
    return [
        Item(
            instance.input,
            instance.references,
            id=f"{name}-{instance.id}",
            instruction=record.definition,
        )
        for name in suite.names("train")
        for record in [suite.task(name)]
        for instance in record.instances[:_SUITE_ROWS_PER_TASK]
    ]
