"""Task records from the TFRecord shards that `tfds build` wrote.

The shards hold every task's rows next to each other and in release order, and their metadata says
how many each task has in each split. So one task is read without the others, from a bucket as
from a disk, and what is read is the record that the task file would have given (without the fields
that no prompt shows): splits, budgets and prompts then cannot differ between the two.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from mixtures import files
from mixtures.errors import DataError
from mixtures.preprocessors import NEGATIVES, POSITIVES, SCALARS, VECTORS
from mixtures.records import Example, Instance, TaskRecord
from mixtures.release import PREPARED, check_missing_policy, tell_of_missing
from mixtures.splits import TRACKS, check_track

VERSION = "1.0.0"

_TASKS_IN_MEMORY = 128
_ROWS_PER_READ = 1024


class PreparedRelease:
    """What `Release` offers, from shards."""

    def __init__(self, path: str, missing: str = "report"):
        """Opens shards; reads nothing yet.

        Args:
            path: the directory that was given to `tfds build --data_dir`.
            missing: see `Release`; the tasks are those that had no file when the shards were made.

        Raises:
            DataError: another value of `missing`.
        """
        check_missing_policy(missing)
        self.path = path
        self._missing_policy = missing
        self._read_task = functools.lru_cache(_TASKS_IN_MEMORY)(self._read_shards)

    def names(self, track: str) -> tuple[str, ...]:
        """The track's tasks, in list order."""
        return tuple(self._metadata(track)["tasks"])

    def missing(self, track: str) -> tuple[str, ...]:
        """Tasks that the track's list named and that had no file when the shards were made."""
        return tuple(self._metadata(track)["missing"])

    def categories(self, track: str) -> dict[str, tuple[str, ...]]:
        """The track's tasks by category, both in list order."""
        grouped: dict[str, list[str]] = {}
        for name, about in self._metadata(track)["tasks"].items():
            grouped.setdefault(about["category"], []).append(name)
        return {category: tuple(names) for category, names in grouped.items()}

    def fingerprint(self, names: Iterable[str]) -> str:
        """The hash that `Release.fingerprint` gives for the files the shards were made of."""
        total = hashlib.sha256()
        for name in sorted(set(names)):
            track = self._track(name)
            total.update(f"{name} {self._metadata(track)['tasks'][name]['sha256']}\n".encode())
        return total.hexdigest()

    def task(self, name: str) -> TaskRecord:
        """Reads a task's rows from the shards, or takes its record from memory."""
        return self._read_task(name)

    def _track(self, name: str) -> str:
        for track in TRACKS:
            if name in self._metadata(track)["tasks"]:
                return track
        raise DataError(f"task '{name}' is not in the shards under {self.path}")

    def _builder(self, track: str) -> Any:
        check_track(track)
        return self._builders[track]

    @functools.cached_property
    def _builders(self) -> dict[str, Any]:
        builders = {}
        for track in TRACKS:
            directory = os.path.join(self.path, PREPARED, track, VERSION)
            if not files.is_dir(directory):
                raise DataError(
                    f"no shards in {directory}; build them with: "
                    f"tfds build mixtures/{PREPARED} --data_dir={self.path}"
                )
            builders[track] = tfds.builder_from_directory(directory)
            metadata = builders[track].info.metadata
            listed = len(metadata["tasks"]) + len(metadata["missing"])
            tell_of_missing(directory, metadata["missing"], listed, self._missing_policy)
        return builders

    def _metadata(self, track: str) -> dict[str, Any]:
        return self._builder(track).info.metadata

    def _read_shards(self, name: str) -> TaskRecord:
        track = self._track(name)
        found = sorted(
            (
                row
                for split in self._builder(track).info.splits
                for row in self._rows(track, split, name)
            ),
            key=lambda row: row["position"],
        )
        first = found[0]
        return TaskRecord(
            name=name,
            category=first["category"],
            categories=(first["category"],),
            sources=(),
            domains=(),
            definition=first["definition"],
            positive_examples=_examples(first, POSITIVES),
            negative_examples=_examples(first, NEGATIVES),
            instances=tuple(Instance(row["id"], row["input"], row["references"]) for row in found),
            input_language=(),
            output_language=(),
            licenses=(),
        )

    def _rows(self, track: str, split: str, name: str) -> Iterator[dict[str, Any]]:
        """A task's rows of one split, read from the part of the shards that holds them."""
        start = 0
        for task, about in self._metadata(track)["tasks"].items():
            if task == name:
                break
            start += about[split]
        end = start + about[split]
        if start == end:
            return
        # Read as plain TFRecord: opening a pipeline of tfds for a few rows takes ten times longer.
        part = self._builder(track).info.splits[f"{split}[{start}:{end}]"]
        for shard in part.file_instructions:
            records = tf.data.TFRecordDataset(shard.filename).skip(shard.skip).take(shard.take)
            for batch in records.batch(_ROWS_PER_READ):
                yield from _parse(batch)


def _parse(serialized: tf.Tensor) -> Iterator[dict[str, Any]]:
    """Rows of a batch of serialized examples."""
    text = tf.io.FixedLenFeature([], tf.string)
    texts = tf.io.RaggedFeature(tf.string)
    spec = {name: text for name in SCALARS} | {name: texts for name in VECTORS}
    parsed = tf.io.parse_example(
        serialized, spec | {"position": tf.io.FixedLenFeature([], tf.int64)}
    )
    scalars = {name: parsed[name].numpy() for name in SCALARS}
    vectors = {name: parsed[name].to_list() for name in VECTORS}
    for index, position in enumerate(parsed["position"].numpy()):
        row: dict[str, Any] = {"position": int(position)}
        row.update((name, values[index].decode("utf-8")) for name, values in scalars.items())
        for name, values in vectors.items():
            row[name] = tuple(value.decode("utf-8") for value in values[index])
        yield row


def _examples(row: dict[str, Any], names: tuple[str, ...]) -> tuple[Example, ...]:
    return tuple(Example(*fields) for fields in zip(*(row[name] for name in names), strict=True))
