"""A directory in the layout of the natural-instructions release.

    <directory>/tasks/<task name>.json
    <directory>/splits/default/train_tasks.txt, test_tasks.txt

Nothing is read before it is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence

from etils import epath

from mixtures import files
from mixtures.errors import DataError, hint, quoted, warn_once
from mixtures.files import StrPath
from mixtures.records import TaskRecord, read_split_list, read_task
from mixtures.splits import TRACKS, check_track

MISSING_POLICIES = ("report", "refuse")
PREPARED = "super_natural_instructions"  # the folder of the shards that `tfds build` writes
BUNDLED_SUITE = epath.Path(__file__).parent / "bundled" / "suite"

_LAYOUT = "a directory with tasks/ and splits/default/{train,test}_tasks.txt"

# Enough for the whole test track; a full release would not fit in memory at once.
_TASKS_IN_MEMORY = 128


def data_dir(explicit: str | None = None) -> epath.Path:
    """The directory to read: `explicit`, else $SUPERNI_DIR, else the bundled suite.

    Raises:
        DataError: the directory that was asked for does not exist.
    """
    for origin, value in (("DATA_DIR", explicit), ("SUPERNI_DIR", os.environ.get("SUPERNI_DIR"))):
        if not value:
            continue
        path = files.path(value, origin)
        if not files.is_dir(path):
            raise DataError(f"{origin} '{value}' is not a directory; allowed: {_LAYOUT}")
        return path
    return BUNDLED_SUITE


class Release:
    """The task files and track lists under one directory."""

    def __init__(self, path: StrPath, missing: str = "report"):
        """Opens a release; reads no file yet.

        Args:
            path: the directory.
            missing: what to do with listed names that have no file: "report" logs one line a
                process and list and leaves them out, "refuse" raises when the list is read.

        Raises:
            DataError: no such layout at `path`, or another value of `missing`.
        """
        check_missing_policy(missing)
        self.path = files.path(path, "DATA_DIR")
        for part in ("tasks", "splits/default"):
            if not files.is_dir(self.path / part):
                raise DataError(f"{self.path}: no directory {part}/; allowed: {_LAYOUT}")
        self._missing_policy = missing
        self._read_task = functools.lru_cache(_TASKS_IN_MEMORY)(read_task)
        self._categories: dict[str, str] = {}

    def names(self, track: str) -> tuple[str, ...]:
        """The track's tasks that have a file, in list order."""
        check_track(track)
        return self._tracks[track]

    def missing(self, track: str) -> tuple[str, ...]:
        """The track's tasks that have no file, in list order."""
        check_track(track)
        return tuple(name for name in self._lists[track] if name not in self._files)

    def task(self, name: str) -> TaskRecord:
        """Reads a task's file, or takes it from memory.

        Raises:
            DataError: there is no such file, or it is malformed.
        """
        return self._read_task(self._task_path(name))

    def categories(self, track: str) -> dict[str, tuple[str, ...]]:
        """The track's tasks by category, both in list order. Reads every file once."""
        grouped: dict[str, list[str]] = {}
        for name in self.names(track):
            if name not in self._categories:
                self._categories[name] = self.task(name).category
            grouped.setdefault(self._categories[name], []).append(name)
        return {category: tuple(names) for category, names in grouped.items()}

    def fingerprint(self, names: Iterable[str]) -> str:
        """SHA-256 over the names and bytes of these tasks' files, whatever their order."""
        total = hashlib.sha256()
        for name in sorted(set(names)):
            file_hash = hashlib.sha256(files.read_bytes(self._task_path(name))).hexdigest()
            total.update(f"{name} {file_hash}\n".encode())
        return total.hexdigest()

    @functools.cached_property
    def _files(self) -> frozenset[str]:
        """Names of the tasks that have a file."""
        names = files.names_in(self.path / "tasks")
        return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))

    @functools.cached_property
    def _lists(self) -> dict[str, tuple[str, ...]]:
        """The names in each track's list, with or without a file."""
        lists = {track: tuple(read_split_list(self._list_path(track))) for track in TRACKS}
        shared = set(lists["train"]) & set(lists["test"])
        if shared:
            raise DataError(
                f"{self._list_path('test')}: {quoted(min(shared))} is in train_tasks.txt too; "
                "allowed: a task in one list"
            )
        return lists

    @functools.cached_property
    def _tracks(self) -> dict[str, tuple[str, ...]]:
        """The names in each track's list that have a file; tells of the others."""
        for track in TRACKS:
            tell_of_missing(
                str(self._list_path(track)),
                self.missing(track),
                len(self._lists[track]),
                self._missing_policy,
            )
        return {
            track: tuple(name for name in self._lists[track] if name in self._files)
            for track in TRACKS
        }

    def _task_path(self, name: str) -> epath.Path:
        if name not in self._files:
            near = hint(name, sorted(self._files))
            raise DataError(
                f"task '{name}' has no file in {self.path}/tasks; "
                f"allowed: one of the {len(self._files)} tasks there{near}"
            )
        return self.path / "tasks" / f"{name}.json"

    def _list_path(self, track: str) -> epath.Path:
        return self.path / "splits" / "default" / f"{track}_tasks.txt"


def check_missing_policy(missing: str) -> None:
    """Raises DataError unless `missing` is "report" or "refuse"."""
    if missing not in MISSING_POLICIES:
        raise DataError(f"missing '{missing}'; allowed: {', '.join(MISSING_POLICIES)}")


def tell_of_missing(where: str, missing: Sequence[str], listed: int, policy: str) -> None:
    """Reports or refuses tasks that a list names and that have no file.

    Args:
        where: the list, for the message.
        missing: the tasks without a file; may be empty.
        listed: number of tasks in the list.
        policy: "report" or "refuse".

    Raises:
        DataError: there are such tasks, under "refuse".
    """
    if not missing:
        return
    problem = (
        f"{where}: {len(missing)} of {listed} tasks have no file (first: {quoted(missing[0])})"
    )
    if policy == "refuse":
        raise DataError(f"{problem}; allowed: every listed task has a file")
    warn_once(f"{problem}; left out")
