"""Examples by number, in memory or on disk, with the lengths that an epoch is planned from."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np

from t5x_ext.data.cuts import Cuts, cuts_by_task, joined_cuts
from t5x_ext.data.records import Example

_READ = 256  # examples at a time, where all are read


class ExampleTable(Sequence[Example]):
    """Examples in a fixed order, wherever they lie, and what is known of them without reading them.

    As a sequence it reads what is asked for; iterating reads a few hundred at a time.
    """

    @property
    @abstractmethod
    def input_lengths(self) -> np.ndarray:
        """uint32 [examples], tokens."""

    @property
    @abstractmethod
    def num_targets(self) -> np.ndarray:
        """uint32 [examples], references that training may draw."""

    @property
    @abstractmethod
    def target_lengths(self) -> np.ndarray:
        """uint32 [targets of all examples, one example's after the other's], tokens."""

    @property
    @abstractmethod
    def cuts(self) -> dict[str, Cuts]:
        """What of the examples was cut to fit, by task."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """What tells these examples from others, wherever they lie."""

    @abstractmethod
    def update(self, digest: Any) -> None:
        """Adds the same to a `hashlib` digest as older runs did: on disk in another way."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> list[Example]:
        """The examples of these numbers, in the order asked for."""

    def parts(self) -> Sequence[ExampleTable]:
        """The tables that make up this one, in its order."""
        return [self]

    def __len__(self) -> int:
        return len(self.input_lengths)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...

    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        numbers = range(len(self))[place]
        return self.read(numbers) if isinstance(numbers, range) else self.read([numbers])[0]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _READ):
            yield from self[start : start + _READ]


class Member(NamedTuple):
    """One task of a mixture.

    Attributes:
        name: of the task.
        examples: its examples.
        rate: mixing rate, relative, > 0.
        redraw: for a task that is stochastic, number of the pass over it (from 1) -> its examples
            in that pass, of which `examples` are those of the first. None: always the same.
    """

    name: str
    examples: ExampleTable
    rate: float
    redraw: Callable[[int], ExampleTable] | None = None


class MemoryTable(ExampleTable):
    """Examples that are in memory."""

    def __init__(self, examples: Sequence[Example]):
        self._examples = examples

    @cached_property
    def input_lengths(self) -> np.ndarray:
        return np.array([len(example.inputs) for example in self._examples], np.uint32)

    @cached_property
    def num_targets(self) -> np.ndarray:
        return np.array([len(example.targets) for example in self._examples], np.uint32)

    @cached_property
    def target_lengths(self) -> np.ndarray:
        lengths = [len(target) for example in self._examples for target in example.targets]
        return np.array(lengths, np.uint32)

    @cached_property
    def cuts(self) -> dict[str, Cuts]:
        return cuts_by_task(self._examples)

    def __len__(self) -> int:
        return len(self._examples)

    def read(self, indices: Sequence[int]) -> list[Example]:
        return [self._examples[index] for index in indices]

    @cached_property
    def digest(self) -> str:
        digest = hashlib.sha256()
        self.update(digest)
        return digest.hexdigest()

    def update(self, digest: Any) -> None:
        for example in self._examples:
            hash_example(digest, example)


def as_table(examples: Sequence[Example]) -> ExampleTable:
    """Examples as a table, which they may be already; others have to be in memory."""
    return examples if isinstance(examples, ExampleTable) else MemoryTable(examples)


def in_memory(name: str, examples: Sequence[Example], rate: float = 1.0) -> Member:
    """A task of a mixture from its examples in memory."""
    return Member(name, MemoryTable(examples), rate)


def hash_example(digest: Any, example: Example) -> None:
    """Adds an example's id and tokens to a `hashlib` digest."""
    digest.update(f"{example.id}\0{len(example.inputs)}\0".encode())
    digest.update(example.inputs.tobytes())
    for target in example.targets:
        digest.update(target.tobytes())


class TablePool:
    """Several tables as one: their examples are numbered through, table after table."""

    def __init__(self) -> None:
        self._tables: list[ExampleTable] = []
        self._starts = [0]

    def add(self, table: ExampleTable) -> int:
        """The number of a table's first example; one that is there already stays where it is."""
        for start, present in zip(self._starts, self._tables, strict=False):
            if present is table:
                return start
        self._tables.append(table)
        self._starts.append(self._starts[-1] + len(table))
        return self._starts[-2]

    def lengths(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`input_lengths`, `num_targets` and `target_lengths` of all."""
        names = ("input_lengths", "num_targets", "target_lengths")
        columns = [[getattr(table, name) for table in self._tables] for name in names]
        inputs, counts, targets = (
            # Not copied where there is one: it may be a file in the memory map.
            parts[0] if len(parts) == 1 else np.concatenate(parts)
            for parts in columns
        )
        return inputs, counts, targets

    def read(self, indices: np.ndarray) -> list[Example]:
        """Examples by their numbers in the pool, in the order asked for."""
        found: list[Example | None] = [None] * len(indices)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            own = indices[places].astype(np.int64) - self._starts[owner]
            examples = self._tables[owner].read(own.tolist())
            for place, example in zip(places.tolist(), examples, strict=True):
                found[place] = example
        return [example for example in found if example is not None]


class JoinedTable(ExampleTable):
    """Several tables as one; their examples stay where they lie."""

    def __init__(self, tables: Sequence[ExampleTable]):
        self._tables, self._pool = tables, TablePool()
        for table in tables:
            self._pool.add(table)
        self._lengths = self._pool.lengths()

    @property
    def input_lengths(self) -> np.ndarray:
        return self._lengths[0]

    @property
    def num_targets(self) -> np.ndarray:
        return self._lengths[1]

    @property
    def target_lengths(self) -> np.ndarray:
        return self._lengths[2]

    @property
    def cuts(self) -> dict[str, Cuts]:
        return joined_cuts(table.cuts for table in self._tables)

    def parts(self) -> Sequence[ExampleTable]:
        return self._tables

    def read(self, indices: Sequence[int]) -> list[Example]:
        return self._pool.read(np.asarray(indices, np.int64))

    @cached_property
    def digest(self) -> str:
        digests = "".join(table.digest for table in self._tables)
        return hashlib.sha256(digests.encode()).hexdigest()

    def update(self, digest: Any) -> None:
        for table in self._tables:
            table.update(digest)
