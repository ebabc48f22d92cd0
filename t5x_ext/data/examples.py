"""The tasks behind a name, ours and SeqIO's, and the examples of one task.

A task says what the data is (source, prompt, vocabulary, trimming); order, packing and batches are
made from the loaded examples by the other modules of this package. SeqIO and TensorFlow are
imported for tasks that are registered with SeqIO and for its caches; ours are read as they are.
What was read last stays in memory. `opening.py` is what others get examples through.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import mixtures
from mixtures import lookup, on_demand
from mixtures.names import PREFIX
from mixtures.specialization.names import PREFIX as SELF_PREFIX
from mixtures.specialization.rows import find_directory as find_domains
from mixtures.tasks import RowTask
from mixtures.writing.names import PREFIX as WRITING_PREFIX
from mixtures.writing.rows import find_directory
from t5x_ext.data import row_examples
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError

Task = Any  # a RowTask, or a seqio.Task


def tasks_of(name: str, split: str) -> list[tuple[Task, float]]:
    """The tasks of a name that have the split, in the order of the mixture, with their rates.

    A task is its own only one, at rate 1.

    Raises:
        ConfigError: no task has the split.
        mixtures.errors.DataError: the name or its data is wrong.
    """
    provider = lookup.find(mixtures.resolve(name))
    is_mixture = hasattr(provider, "tasks")
    if is_mixture:
        on_demand.renew(provider)
    if split not in provider.splits:
        raise ConfigError(f"{name}: split {split!r}; allowed: {', '.join(sorted(provider.splits))}")
    if not is_mixture:
        return [(provider, 1.0)]
    return [
        (on_demand.find(task.name) or task, float(provider.get_rate(task)))
        for task in provider.tasks
        if split in task.splits
    ]


def read_examples(
    task: Task, split: str, lengths: Mapping[str, int], use_cached: bool = False, seed: int = 0
) -> Iterator[Example]:
    """The examples of a task, one after the other.

    Args:
        task: has the split.
        split: train, validation, test, or whatever splits the task has.
        lengths: {'inputs': tokens, 'targets': tokens}, at most, EOS included.
        use_cached: read the task's SeqIO cache instead of preprocessing.
        seed: of stochastic preprocessors.

    Raises:
        ConfigError: `use_cached`, and there is no SeqIO cache.
    """
    if isinstance(task, RowTask) and not use_cached:
        return row_examples.read_examples(task, split, lengths)
    from t5x_ext.data import seqio_examples

    return seqio_examples.read_examples(as_seqio(task), split, lengths, use_cached, seed)


def as_seqio(task: Task) -> Any:
    """The task as SeqIO has it, which reads its caches."""
    if not isinstance(task, RowTask):
        return task
    import seqio

    return seqio.get_mixture_or_task(task.name)


class _RecentExamples:
    """Keeps the examples used last, at most `capacity` of them (about 6 kB each)."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, list[Example]] = OrderedDict()

    def get(self, key: Hashable) -> list[Example] | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Hashable, examples: list[Example]) -> None:
        self._kept[key] = examples
        while sum(map(len, self._kept.values())) > self._capacity:
            self._kept.popitem(last=False)


# A study opens the same tasks for every setting, starting point and seed.
_recent = _RecentExamples(capacity=50_000)


def recall(
    task: Task, split: str, lengths: Mapping[str, int], use_cached: bool
) -> list[Example] | None:
    """A task's examples if they were loaded before and are still in memory."""
    return _recent.get(_key_of(task, split, lengths, use_cached))


def remember(
    task: Task,
    split: str,
    lengths: Mapping[str, int],
    use_cached: bool,
    examples: list[Example],
) -> None:
    """Keeps a task's examples for the next that asks for them."""
    _recent.put(_key_of(task, split, lengths, use_cached), examples)


def _key_of(task: Task, split: str, lengths: Mapping[str, int], use_cached: bool) -> Hashable:
    return _data_key(task, split), split, tuple(sorted(lengths.items())), use_cached


def _data_key(task: Task, split: str) -> Hashable:
    """What determines a task's rows; the same for all budgets where the budget plays no part."""
    if task.name.startswith(WRITING_PREFIX):
        context = mixtures.current_context()
        return task.name, context, str(find_directory(context.data_dir))
    if task.name.startswith(SELF_PREFIX):
        context = mixtures.current_context()
        return task.name, context, str(find_domains(context.data_dir))
    if not task.name.startswith(PREFIX):
        # The object, not its name: the name may come to stand for another task. Being kept in the
        # key it cannot be mistaken for a later object at the same address.
        return task
    context = mixtures.current_context()
    context = dataclasses.replace(context, data_dir=str(context.store.path))
    if split == "train":
        return task.name, context
    name_without_budget = task.name.rpartition(".")[0]
    return name_without_budget, dataclasses.replace(context, budget_order="seeded", budget_seed=0)
