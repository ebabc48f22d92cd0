"""A SeqIO data source of rows that are in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from mixtures.preprocessors import DOCUMENT, NEGATIVES, POSITIVES, REWRITING, TARGET_TEXTS
from mixtures.records import Example, Row


class RowSource(seqio.DataSource):
    """Rows of one or more splits, read when a split is first opened.

    What rows share (definition and examples) is held once, however many rows there are. Shuffling
    covers the whole split, and shards are disjoint for any number of shards.
    """

    def __init__(self, read_rows: Callable[[str], Sequence[Row]], splits: Iterable[str]):
        """Makes a source; reads nothing yet.

        Args:
            read_rows: gives the rows of a split, in a fixed order. Called once a split.
            splits: names of the splits there are.
        """
        super().__init__(splits=splits, performs_internal_shuffling=True)
        self._table = functools.lru_cache(maxsize=None)(lambda split: _Table(read_rows(split)))

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def num_input_examples(self, split: str) -> int:
        return self._table(split).num_rows

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused_kwargs: object,
    ) -> tf.data.Dataset:
        """Returns the rows of a split as `mixtures.preprocessors` describes them."""
        table = self._table(split)
        indices = tf.data.Dataset.range(table.num_rows)
        if shard_info is not None:
            indices = indices.shard(shard_info.num_shards, shard_info.index)
        if shuffle and table.num_rows:
            indices = indices.shuffle(table.num_rows, seed=seed)
        return indices.map(table.row)


class _Table:
    """Rows as a few string matrices.

    One matrix for several columns, and not one tensor a column: looking a row up then takes a
    third of the TensorFlow operations, and each operation costs more than what it does.
    """

    def __init__(self, rows: Sequence[Row]):
        self.num_rows = len(rows)
        self._instances = _matrix([(row.id, row.input) for row in rows], width=2)
        self._references = _texts(row.references for row in rows)
        self._rewriting: _Rewriting | None = None
        if any(row.source or row.targets for row in rows):
            self._rewriting = _Rewriting(rows)
        self._documents: tf.Tensor | None = None
        if any(row.document for row in rows):
            self._documents = tf.constant([row.document for row in rows], tf.string)
        # Rows of one task share their example tuples: identity is enough, and needs no hashing of
        # long texts.
        numbers: dict[tuple[object, ...], int] = {}
        group_of_row = [numbers.setdefault(_group_key(row), len(numbers)) for row in rows]
        firsts = np.unique(np.array(group_of_row, np.int64), return_index=True)[1]
        groups = [rows[index] for index in firsts]
        self._group_of_row = tf.constant(group_of_row, tf.int64, shape=[len(rows)])
        self._tasks = _matrix([(row.task, row.category, row.definition) for row in groups], width=3)
        self._positives = _Lists([_fields(row.positive_examples) for row in groups], width=3)
        self._negatives = _Lists([_fields(row.negative_examples) for row in groups], width=3)

    @tf.autograph.experimental.do_not_convert  # it has nothing to convert, and trying takes time
    def row(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """The flat dictionary of one row."""
        group = self._group_of_row[index]
        row_id, text = tf.unstack(self._instances[index], num=2)
        task, category, definition = tf.unstack(self._tasks[group], num=3)
        columns = {
            "task": task,
            "category": category,
            "id": row_id,
            "definition": definition,
            "input": text,
            "references": self._references.columns(index)[0],
        }
        columns.update(zip(POSITIVES, self._positives.columns(group), strict=True))
        columns.update(zip(NEGATIVES, self._negatives.columns(group), strict=True))
        if self._rewriting is not None:
            columns.update(self._rewriting.columns(index))
        if self._documents is not None:
            columns[DOCUMENT] = self._documents[index]
        return columns


class _Rewriting:
    """What rows have whose input is to be rewritten."""

    def __init__(self, rows: Sequence[Row]):
        self._scalars = _matrix([(row.source, row.edits) for row in rows], width=2)
        self._targets = _texts(row.targets or row.references for row in rows)

    def columns(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        scalars = zip(REWRITING, tf.unstack(self._scalars[index], num=2), strict=True)
        return {**dict(scalars), TARGET_TEXTS: self._targets.columns(index)[0]}


class _Lists:
    """Lists of `width`-tuples of strings, end to end, with where each list starts."""

    def __init__(self, lists: Sequence[Sequence[tuple[str, ...]]], width: int):
        self._width = width
        self._values = _matrix([item for items in lists for item in items], width)
        self._starts = tf.constant(np.cumsum([0, *map(len, lists)]), tf.int64)

    def columns(self, index: tf.Tensor) -> list[tf.Tensor]:
        """The tuples of one list, turned into `width` vectors."""
        values = self._values[self._starts[index] : self._starts[index + 1]]
        return tf.unstack(values, num=self._width, axis=1)


def _matrix(values: Sequence[tuple[str, ...]], width: int) -> tf.Tensor:
    return tf.constant(values, tf.string, shape=[len(values), width])


def _texts(lists: Iterable[Sequence[str]]) -> _Lists:
    return _Lists([[(text,) for text in texts] for texts in lists], width=1)


def _fields(examples: Iterable[Example]) -> list[tuple[str, str, str]]:
    return [(example.input, example.output, example.explanation or "") for example in examples]


def _group_key(row: Row) -> tuple[object, ...]:
    shared = (row.definition, row.positive_examples, row.negative_examples)
    return (row.task, row.category, *map(id, shared))
