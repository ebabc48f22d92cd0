"""Opens training data: in memory where that suffices, else from the local cache.

Tasks with stochastic preprocessors are tokenised again for every pass over them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from mixtures.tasks import RowTask
from t5x_ext.bounds import check_lengths
from t5x_ext.data import examples as loading
from t5x_ext.data import row_examples, stores
from t5x_ext.data.records import Example, Member
from t5x_ext.data.tables import ExampleTable, MemoryTable, hash_example
from t5x_ext.progress import MinuteNotes

_SAMPLE = 256  # examples that tell whether a store is still what the task gives


def open_mixture(
    name: str,
    split: str,
    lengths: Mapping[str, int],
    use_cached: bool = False,
    seed: int = 0,
    memory_limit_bytes: int = 1 << 29,
) -> list[Member]:
    """Opens a split of a task or mixture for training.

    Args:
        name: a registered SeqIO task or mixture, or any name that mixtures.resolve takes.
        split: train, validation, test, or whatever splits the task has.
        lengths: {'inputs': tokens, 'targets': tokens}, at most, EOS included.
        use_cached: read the task's SeqIO cache instead of preprocessing.
        seed: of the draws of stochastic preprocessors.
        memory_limit_bytes: what the examples of all tasks together may take in memory, about. The
            task that goes beyond it, and those after it that do, are tokenised once into the
            local cache and read from there.

    Returns:
        As `load_mixture`, with tables in place of lists, and `redraw` for stochastic tasks.

    Raises:
        ConfigError: no task has the split, or `lengths` is not for inputs and targets.
        mixtures.errors.DataError: the name or its data is wrong.
    """
    check_lengths("TASK_FEATURE_LENGTHS", lengths)
    members = []
    for task, rate in loading.tasks_of(name, split):
        opener = _TaskOpener(task, split, dict(lengths), use_cached, seed)
        table, taken = opener.open(memory_limit_bytes)
        redraw = None
        if opener.is_stochastic:
            redraw = partial(opener.redraw, memory_limit_bytes)
        memory_limit_bytes -= taken
        members.append(Member(task.name, table, rate, redraw))
    return members


def is_stochastic(
    name: str, split: str, lengths: Mapping[str, int], use_cached: bool = False
) -> bool:
    """Whether a task of a name has other examples in each pass; arguments of `open_mixture`."""
    tasks = [task for task, _ in loading.tasks_of(name, split)]
    openers = [_TaskOpener(task, split, dict(lengths), use_cached, 0) for task in tasks]
    return any(opener.is_stochastic for opener in openers)


@dataclass(frozen=True)
class _TaskOpener:
    """Opens the examples of one task; fields as of `open_mixture`."""

    task: loading.Task
    split: str
    lengths: Mapping[str, int]
    use_cached: bool
    seed: int

    @cached_property
    def is_stochastic(self) -> bool:
        """Whether each pass has other examples."""
        if isinstance(self.task, RowTask):
            return False
        from t5x_ext.data import seqio_examples

        return seqio_examples.is_stochastic(self.task, self.split, self.lengths, self.use_cached)

    def redraw(self, memory_limit_bytes: int, number: int) -> ExampleTable:
        """The examples of the `number`th pass over the task, from 0."""
        return self.open(memory_limit_bytes, number)[0]

    def open(self, memory_limit_bytes: int, number: int = 0) -> tuple[ExampleTable, int]:
        """A table of the examples, and about how many bytes of memory it takes.

        Where it lies is a function of the data and the limit, and not of what the cache holds.
        """
        arguments = (self.task, self.split, self.lengths, self.use_cached)
        known = None if self.is_stochastic else loading.recall(*arguments)
        if known is not None and (size := _memory_bytes(known)) <= memory_limit_bytes:
            return MemoryTable(known), size
        draw_seed = 0
        if self.is_stochastic:
            from t5x_ext.data import stochastic

            draw_seed = stochastic.draw_seed(self.seed, self.task.name, number)
        source = _reading_once(self.task)
        rows = loading.read_examples(source, *arguments[1:], draw_seed)
        sample = list(itertools.islice(rows, _SAMPLE))
        path = self._store_path(source, sample, number)
        found = stores.open_store(path)
        if found is not None and found.memory_bytes > memory_limit_bytes:
            return found, 0
        rows = itertools.chain(sample, rows)
        kept: deque[Example] = deque()
        size = 0
        with MinuteNotes(f"tokenising {self.task.name}", None, "examples") as progress:
            for example in rows:
                kept.append(example)
                size += stores.memory_bytes(example)
                progress.count(len(kept))
                if size > memory_limit_bytes:
                    break
        if size > memory_limit_bytes:
            self._clear_draws_before(path, number)
            del sample
            every = itertools.chain(_emptied(kept), rows)
            return stores.build_store(path, self.task.name, every), 0
        examples = list(kept)
        if not self.is_stochastic:
            loading.remember(*arguments, examples)
        return MemoryTable(examples), size

    def _store_path(self, source: loading.Task, sample: Iterable[Example], number: int) -> Path:
        """Where the store is that holds these data and begins with these examples.

        Data are compared whole: files by size and time of change, rows by their content. The code
        of a task cannot be compared, so what it gives now is: its first examples.
        """
        settings = [self.split, sorted(self.lengths.items()), self.use_cached]
        settings += [self.seed if self.is_stochastic else None, self._content(source)]
        digest = hashlib.sha256()
        for example in sample:
            hash_example(digest, example)
        return stores.store_path(self.task.name, repr(settings), number, digest.hexdigest())

    def _content(self, source: loading.Task) -> object:
        """What tells the data of the split from others."""
        if isinstance(source, RowTask) and not self.use_cached:
            return row_examples.fingerprint(source, self.split)
        from t5x_ext.data import seqio_examples

        return seqio_examples.files_of(loading.as_seqio(source), self.split, self.use_cached)

    def _clear_draws_before(self, path: Path, number: int) -> None:
        """Deletes stores of draws that no run with this seed comes back to.

        One before this may be in use: a thread plans an epoch ahead.
        """
        for other, drawn in stores.draws_beside(path):
            if self.is_stochastic and drawn < number - 1:
                shutil.rmtree(other, ignore_errors=True)


def _memory_bytes(examples: Iterable[Example]) -> int:
    return sum(map(stores.memory_bytes, examples))


def _emptied(kept: deque[Example]) -> Iterator[Example]:
    """The examples, each let go of as it is taken."""
    while kept:
        yield kept.popleft()


def _reading_once(task: loading.Task) -> loading.Task:
    """The task; one of ours reads its rows once, for their fingerprint and for its examples."""
    if not isinstance(task, RowTask):
        return task
    return dataclasses.replace(task, read_rows=functools.cache(task.read_rows))
