"""Tasks as rows and the way they are written: what a `superni.*` name stands for.

A scope of many tasks (`held_in`, `pretune`, a category) is one task over all their rows, not a
mixture of one each: mixing in proportion to size is the same as shuffling the rows together, and
SeqIO would take minutes to open hundreds of datasets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from mixtures.budgets import select
from mixtures.context import Context, current_context
from mixtures.names import find_scope, parse_name
from mixtures.records import Row, rows
from mixtures.splits import split_instances


@dataclasses.dataclass(frozen=True, eq=False)
class RowTask:
    """A task of ours, which takes neither SeqIO nor TensorFlow.

    `mixtures.rendering` makes examples of it, and `mixtures.seqio_tasks` a task of SeqIO's, which
    gives the same ones.

    Attributes:
        name: of the task, as SeqIO knows it.
        splits: names of its splits.
        read_rows: the rows of a split, in a fixed order.
        prompt: name of the prompt that they are written with.
        context: the settings that it was built under.
    """

    name: str
    splits: tuple[str, ...]
    read_rows: Callable[[str], Sequence[Row]]
    prompt: str
    context: Context


def make_superni_task(name: str) -> RowTask:
    """The task that a `superni.*` name stands for under the current settings.

    Raises:
        DataError: prompt, scope or budget is unknown; the message has the nearest names.
    """
    context = current_context()
    parsed = parse_name(name)
    scope = find_scope(parsed.scope, context.store)

    def read_rows(split: str) -> list[Row]:
        return [
            row
            for task in scope.tasks
            for row in task_rows(context, task, scope.track, split, parsed.budget)
        ]

    splits = ("train", "validation", "test") if scope.track == "test" else ("train", "validation")
    return RowTask(name, splits, read_rows, parsed.prompt, context)


def task_rows(context: Context, task: str, track: str, split: str, budget: str | int) -> list[Row]:
    """One task's rows of a split; the budget applies to train only."""
    record = context.store.task(task)
    instances = getattr(split_instances(record, track, context.split_policy), split)
    if split == "train":
        ids = [instance.id for instance in instances]
        chosen = select(task, ids, budget, context.budget_seed, context.budget_order)
        instances = [instances[index] for index in chosen]
    return rows(record, instances)
