"""Opens the examples of a name: in memory where that suffices, else from the local cache.

In training, tasks with stochastic preprocessors are tokenised again for every pass over them.
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
from t5x_ext.bounds import MAX_TOKENS, check_lengths
from t5x_ext.data import examples as loading
from t5x_ext.data import row_examples, stores
from t5x_ext.data.records import Example
from t5x_ext.data.tables import ExampleTable, Member, MemoryTable, hash_example
from t5x_ext.progress import counted

UNCUT = {"inputs": MAX_TOKENS, "targets": MAX_TOKENS}  # lengths that cut no example

_SAMPLE = 256  # examples that tell whether a store is still what the task gives


def open_members(
    name: str,
    split: str,
    lengths: Mapping[str, int],
    use_cached: bool = False,
    memory_limit_bytes: int | None = None,
    draw_seed: int | None = None,
) -> list[Member]:
    """Opens a split of a task or mixture, task by task.

    What was opened in memory is not read again the next time.

    Args:
        name: a registered SeqIO task or mixture, or any name that mixtures.resolve takes.
        split: train, validation, test, or whatever splits the task has.
        lengths: {'inputs': tokens, 'targets': tokens}, at most, EOS included.
        use_cached: read the task's SeqIO cache instead of preprocessing.
        memory_limit_bytes: what the examples of all tasks together may take in memory, about. The
            task that goes beyond it, and those after it that do, are tokenised once into the
            local cache and read from there, without their texts. None: all are in memory.
        draw_seed: what tasks with stochastic preprocessors draw from, anew in every pass; None:
            they have one draw, always the same.

    Returns:
        One member per task that has the split, in the order of the mixture's task names, with the
        mixture's rate, and with `redraw` where each pass has other examples. A task is its own
        only member, at rate 1.

    Raises:
        ConfigError: no task has the split, or `lengths` is not for inputs and targets.
        mixtures.errors.DataError: the name or its data is wrong.
    """
    check_lengths("TASK_FEATURE_LENGTHS", lengths)
    members = []
    for task, rate in loading.tasks_of(name, split):
        opener = _TaskOpener(task, split, dict(lengths), use_cached, draw_seed)
        redraw = partial(opener.redraw, memory_limit_bytes) if opener.draws_anew else None
        if memory_limit_bytes is None:
            table: ExampleTable = opener.load()
        else:
            table, taken = opener.open(memory_limit_bytes)
            memory_limit_bytes -= taken
        members.append(Member(task.name, table, rate, redraw))
    return members


def load_examples(
    name: str, split: str, lengths: Mapping[str, int], use_cached: bool = False
) -> list[Example]:
    """Every example of a split of a task or mixture exactly once, in memory; see `open_members`."""
    members = open_members(name, split, lengths, use_cached)
    return [example for member in members for example in member.examples]


@dataclass(frozen=True)
class _TaskOpener:
    """Opens the examples of one task; fields as of `open_members`."""

    task: loading.Task
    split: str
    lengths: Mapping[str, int]
    use_cached: bool
    draw_seed: int | None

    @cached_property
    def draws_anew(self) -> bool:
        """Whether each pass has other examples."""
        if self.draw_seed is None or isinstance(self.task, RowTask):
            return False
        from t5x_ext.data import seqio_examples

        return seqio_examples.is_stochastic(self.task, self.split, self.lengths, self.use_cached)

    def redraw(self, memory_limit_bytes: int | None, number: int) -> ExampleTable:
        """The examples of the `number`th pass over the task, from 0."""
        if memory_limit_bytes is None:
            return self.load(number)
        return self.open(memory_limit_bytes, number)[0]

    def load(self, number: int = 0) -> MemoryTable:
        """The examples of a pass, in memory."""
        examples = self._recall()
        if examples is None:
            rows = self._read(self.task, number)
            examples = list(counted(rows, f"tokenising {self.task.name}", "examples"))
            self._remember(examples)
        return MemoryTable(examples)

    def open(self, memory_limit_bytes: int, number: int = 0) -> tuple[ExampleTable, int]:
        """A table of the examples of a pass, and about how many bytes of memory it takes.

        Where it lies is a function of the data and the limit, and not of what the cache holds.
        """
        known = self._recall()
        if known is not None and (size := _memory_bytes(known)) <= memory_limit_bytes:
            return MemoryTable(known), size
        source = _reading_once(self.task)
        rows = self._read(source, number)
        sample = list(itertools.islice(rows, _SAMPLE))
        path = self._store_path(source, sample, number)
        found = stores.open_store(path)
        if found is not None and found.memory_bytes > memory_limit_bytes:
            return found, 0
        rows = itertools.chain(sample, rows)
        del sample  # each is let go of as it is written
        kept, size = self._take(rows, memory_limit_bytes)
        if size > memory_limit_bytes:
            self._clear_draws_before(path, number)
            every = itertools.chain(_emptied(kept), rows)
            return stores.build_store(path, self.task.name, every), 0
        examples = list(kept)
        self._remember(examples)
        return MemoryTable(examples), size

    def _take(self, rows: Iterator[Example], limit_bytes: int) -> tuple[deque[Example], int]:
        """Takes examples until none are left or they go beyond a limit; their size in bytes."""
        kept: deque[Example] = deque()
        size = 0
        for example in counted(rows, f"tokenising {self.task.name}", "examples"):
            kept.append(example)
            size += stores.memory_bytes(example)
            if size > limit_bytes:
                break
        return kept, size

    def _read(self, source: loading.Task, number: int) -> Iterator[Example]:
        """The examples of a pass, one after the other."""
        seed = 0
        if self.draws_anew:
            from t5x_ext.data import stochastic

            assert self.draw_seed is not None  # else nothing is drawn anew
            seed = stochastic.draw_seed(self.draw_seed, self.task.name, number)
        return loading.read_examples(source, self.split, self.lengths, self.use_cached, seed)

    def _recall(self) -> list[Example] | None:
        """The examples where they were read before, are still in memory, and stay the same."""
        if self.draws_anew:
            return None
        return loading.recall(self.task, self.split, self.lengths, self.use_cached)

    def _remember(self, examples: list[Example]) -> None:
        if not self.draws_anew:
            loading.remember(self.task, self.split, self.lengths, self.use_cached, examples)

    def _store_path(self, source: loading.Task, sample: Iterable[Example], number: int) -> Path:
        """Where the store is that holds these data and begins with these examples.

        Data are compared whole: files by size and time of change, rows by their content. The code
        of a task cannot be compared, so what it gives now is: its first examples.
        """
        settings = [self.split, sorted(self.lengths.items()), self.use_cached]
        settings += [self.draw_seed if self.draws_anew else None, self._content(source)]
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
            if self.draws_anew and drawn < number - 1:
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
