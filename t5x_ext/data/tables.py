"""Examples by number, in memory or on disk, with the lengths that an epoch is planned from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from t5x_ext.data.cuts import Cuts, cuts_by_task, joined_cuts
from t5x_ext.data.records import Example

_READ = 256  # examples at a time, where all are read


class ExampleTable(Protocol):
    """What planning and batching ask of examples, wherever they lie."""

    @property
    def input_lengths(self) -> np.ndarray:
        """uint32 [examples], tokens."""

    @property
    def num_targets(self) -> np.ndarray:
        """uint32 [examples], references that training may draw."""

    @property
    def target_lengths(self) -> np.ndarray:
        """uint32 [targets of all examples, one example's after the other's], tokens."""

    @property
    def cuts(self) -> dict[str, Cuts]:
        """What of the examples was cut to fit, by task."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[Example]:
        """The examples of these numbers, in the order asked for."""

    @property
    def digest(self) -> str:
        """What tells these examples from others, wherever they lie."""

    def update(self, digest: Any) -> None:
        """Adds the same to a `hashlib` digest as older runs did: on disk in another way."""


class MemoryTable:
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


def as_table(examples: Sequence[Example] | ExampleTable) -> ExampleTable:
    """A table of a sequence of examples; a table as it is."""
    return MemoryTable(examples) if isinstance(examples, list | tuple) else examples  # type: ignore


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


class TableExamples(Sequence[Example]):
    """Examples of several tables as one sequence and one table; they stay where they lie."""

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

    def parts(self) -> list[Sequence[Example]]:
        """The examples of each table, in this order."""
        return [TableExamples([table]) for table in self._tables]

    def read(self, indices: Sequence[int]) -> list[Example]:
        return self._pool.read(np.asarray(indices, np.int64))

    @cached_property
    def digest(self) -> str:
        digests = "".join(table.digest for table in self._tables)
        return hashlib.sha256(digests.encode()).hexdigest()

    def update(self, digest: Any) -> None:
        for table in self._tables:
            table.update(digest)

    def __len__(self) -> int:
        return len(self.input_lengths)

    def __getitem__(self, place: Any) -> Any:
        numbers = range(len(self))[place]
        return self.read(numbers) if isinstance(place, slice) else self.read([numbers])[0]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _READ):
            yield from self[start : start + _READ]


def parts_of(examples: Sequence[Example]) -> list[Sequence[Example]]:
    """What examples lie in one after the other: the tables of `TableExamples`, else themselves."""
    return examples.parts() if isinstance(examples, TableExamples) else [examples]
