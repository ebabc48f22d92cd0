"""Tokenised examples on disk, for training data that memory does not hold.

A store is a directory in the local cache: one ArrayRecord file of examples, read by number through
`array_record`; their lengths as NumPy files, mapped into memory; and `store.json`, which says what
is in it. `caches` says how it is built once and whole.

Training reads ids and tokens only, so texts are left out.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from t5x_ext import caches
from t5x_ext.data.cuts import Cuts
from t5x_ext.data.records import Example
from t5x_ext.data.tables import ExampleTable, hash_example
from t5x_ext.progress import counted

_RECORDS = "examples.array_record"
_ABOUT = "store.json"
_COLUMNS = ("input_lengths", "num_targets", "target_lengths")
_VERSION = 2  # of what records and columns hold
_OVERHEAD = 700  # bytes of Python and NumPy objects that an example of one target is made of


def memory_bytes(example: Example) -> int:
    """About how much memory an example takes."""
    tokens = example.inputs.nbytes + sum(target.nbytes for target in example.targets)
    texts = len(example.inputs_pretokenized) + sum(map(len, example.references))
    return tokens + texts + _OVERHEAD + 150 * len(example.targets)


class StoredTable(ExampleTable):
    """Examples on disk, without their texts.

    Attributes:
        memory_bytes: about what its examples, with their texts, would take in memory.
    """

    def __init__(self, path: Path):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        about = json.loads((path / _ABOUT).read_text())
        self.memory_bytes: int = about["memory_bytes"]
        self._cuts = {task: Cuts(*counts) for task, counts in about["cuts"].items()}
        self._digest: str = about["digest"]
        self._columns = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}
        self._records: Any = ArrayRecordDataSource(str(path / _RECORDS))
        self._records[0]  # opened now: another run may clear the directory away later

    @property
    def input_lengths(self) -> np.ndarray:
        return self._columns["input_lengths"]

    @property
    def num_targets(self) -> np.ndarray:
        return self._columns["num_targets"]

    @property
    def target_lengths(self) -> np.ndarray:
        return self._columns["target_lengths"]

    @property
    def cuts(self) -> dict[str, Cuts]:
        return self._cuts

    @property
    def digest(self) -> str:
        """That of the same examples in memory."""
        return self._digest

    def read(self, indices: Sequence[int]) -> list[Example]:
        return [_from_record(record) for record in self._records.__getitems__(indices)]

    def update(self, digest: Any) -> None:
        digest.update(self.digest.encode())


def store_path(name: str, settings: str, number: int, content: str) -> Path:
    """Where the store of a task's examples is.

    Args:
        name: of the task.
        settings: what it is read with, as text.
        number: of the draw; 0 if there is only one.
        content: a digest of examples that the store must begin with.
    """
    whole = hashlib.sha256(f"{_VERSION}\0{name}\0{settings}".encode()).hexdigest()
    begin = name.encode()[:80].decode(errors="ignore")  # a file's name has 255 bytes
    return caches.directory("examples") / f"{begin}-{whole[:16]}-{number}-{content[:16]}"


def draws_beside(path: Path) -> list[tuple[Path, int]]:
    """The stores of the same task and settings, with the number of their draw."""
    own, _, _ = path.name.rsplit("-", 2)
    found = []
    for other in path.parent.glob(f"{own}-*"):
        number, _, content = other.name.removeprefix(f"{own}-").partition("-")
        if number.isdecimal() and content.isalnum() and other.is_dir():
            found.append((other, int(number)))
    return found


def open_store(path: Path) -> StoredTable | None:
    """The store at a path; None if there is none."""
    return StoredTable(path) if (path / _ABOUT).is_file() else None


def build_store(path: Path, name: str, examples: Iterable[Example]) -> StoredTable:
    """Writes examples to a store, or opens the one that another process has built meanwhile.

    Args:
        path: see `store_path`.
        name: of the task, for the progress line.
        examples: at least one; taken one after the other, never all at once.

    Raises:
        ConfigError: the cache cannot be written.
    """
    told = counted(examples, f"tokenising {name}", "examples")
    caches.make_once(path, _ABOUT, lambda directory: _write(directory, told))
    return StoredTable(path)


def _write(directory: Path, examples: Iterable[Example]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    columns = {name: array("I") for name in _COLUMNS}
    digest, total = hashlib.sha256(), 0
    cuts: dict[str, Cuts] = {}
    # Groups of one record are what random access is fast with.
    writer = ArrayRecordWriter(str(directory / _RECORDS), "group_size:1,zstd:1")
    for example in examples:
        writer.write(_to_record(example))
        columns["input_lengths"].append(len(example.inputs))
        columns["num_targets"].append(len(example.targets))
        columns["target_lengths"].extend(map(len, example.targets))
        hash_example(digest, example)
        total += memory_bytes(example)
        cuts[example.task] = cuts.get(example.task, Cuts()).with_row(example)
    writer.close()
    for name, values in columns.items():
        np.save(directory / f"{name}.npy", np.frombuffer(values, np.uint32))
    about = {
        "version": _VERSION,
        "memory_bytes": total,
        "digest": digest.hexdigest(),
        "cuts": cuts,
    }
    (directory / _ABOUT).write_text(json.dumps(about))


def _to_record(example: Example) -> bytes:
    tokens = (example.inputs, *example.targets)
    narrow = all(len(ids) == 0 or (ids.min() >= 0 and ids.max() < 1 << 16) for ids in tokens)
    dtype = "<u2" if narrow else "<i4"
    parts = [ids.astype(dtype).tobytes() for ids in tokens]
    return msgpack.packb([dtype, example.id, example.task, example.category, *parts])


def _from_record(record: bytes) -> Example:
    dtype, name, task, category, *parts = msgpack.unpackb(record)
    inputs, *targets = (np.frombuffer(part, dtype).astype(np.int32) for part in parts)
    return Example(name, task, category, inputs, tuple(targets), "", (), False)
