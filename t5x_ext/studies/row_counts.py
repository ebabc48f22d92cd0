"""How many rows a study trains and tests on, before anything is tokenised."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from mixtures import lookup
from mixtures.budgets import parse_budget
from mixtures.errors import DataError
from mixtures.names import HELD_IN, PRETUNE, find_scope
from mixtures.release import Release, data_dir
from mixtures.specialization.names import PREFIX as SELF_PREFIX
from mixtures.splits import split_counts
from mixtures.tasks import RowTask
from mixtures.writing.names import PREFIX as WRITING_PREFIX
from mixtures.writing.names import WritingName, parse_name
from mixtures.writing.rows import counts_of, find_directory, rows_of
from mixtures.writing.sets import GENERIC, SETS, TASKS
from t5x_ext.configs import SuperNIConfig
from t5x_ext.errors import ConfigError
from t5x_ext.studies.arms import Arm
from t5x_ext.studies.domain_sizes import self_rows, self_train_rows
from t5x_ext.studies.named_data import is_named, without_data
from t5x_ext.studies.recipes import InitialModel

SELF_TEST_ROWS = 200  # of a set whose file is not here, as most of those that are shipped have


class RowCounts:
    """Counts rows of a release's tasks and of named data, as far as their files are here.

    Args:
      superni_cfg: where task files are, and how they are split.
      test_examples: of each task that are decoded; None takes all.
    """

    def __init__(self, superni_cfg: SuperNIConfig, test_examples: int | None = None) -> None:
        self._test_examples = test_examples
        self._superni_cfg = superni_cfg

    @functools.cached_property
    def store(self) -> Release:
        """The task files; studies of sets with their own names need none."""
        return Release(data_dir(self._superni_cfg.data_dir), self._superni_cfg.missing)

    def listed(self, track: str) -> tuple[str, ...]:
        """The track's tasks, with or without a file."""
        return self.store.names(track) + self.store.missing(track)

    def missing(self, names: Sequence[str]) -> int:
        """How many of these tasks have no file here; published numbers stand for writing sets."""
        return sum(self._is_missing(name) for name in names)

    def prompts(self, names: Sequence[str]) -> int:
        """Test rows of these tasks that are decoded."""
        most = self._test_examples
        counts = (self._test_rows(name) for name in names)
        return sum(count if most is None else min(count, most) for count in counts)

    def train_rows(self, arm: Arm, names: Sequence[str], budget: str) -> int:
        """Rows that an arm is tuned on with a budget.

        Raises:
          mixtures.DataError: its data is not here.
          ConfigError: the number is not known.
        """
        if arm.generated:
            return int(budget.removeprefix("n"))
        if arm.data:
            return self._named_rows(arm.training_data(budget), f"Arm {arm.name}: data")
        if any(map(is_named, names)):
            raise without_data(names, budget)
        return self._budget_rows(names, "test", budget)

    def initial_rows(self, initial: InitialModel) -> int:
        """Rows that an initial model is tuned on.

        Raises:
          mixtures.DataError: its data is not here.
          ConfigError: the number is not known.
        """
        if initial.data is not None:
            return self._named_rows(initial.data, f"InitialModel {initial.name}: data")
        assert initial.scope is not None
        scope = find_scope(initial.scope, self.store)
        is_track = initial.scope in (HELD_IN, PRETUNE)
        names = self.listed(scope.track) if is_track else scope.tasks
        return self._budget_rows(names, scope.track, initial.budget)

    def _budget_rows(self, names: Sequence[str], track: str, budget: str) -> int:
        wanted = parse_budget(budget)
        available = [self._split(name, track)[0] for name in names]
        return sum(min(wanted.count(count), count) for count in available)

    @functools.cache  # noqa: B019 (a command makes one of these)
    def _named_rows(self, name: str, owner: str) -> int:
        """Training rows of named data."""
        directory = self._superni_cfg.data_dir
        if name.startswith(WRITING_PREFIX):
            return _writing_train_rows(parse_name(name), directory)
        if name.startswith(SELF_PREFIX):
            rows = self_train_rows(name, directory)
        else:
            rows = _rows_of_task(name, "train")
        if not rows:
            raise ConfigError(
                f"plan: {owner} {name!r}: its number of training rows is not known here; "
                "allowed: data that is here, or a Recipe with steps"
            )
        return rows

    @functools.cache  # noqa: B019
    def _test_rows(self, name: str) -> int:
        directory = self._superni_cfg.data_dir
        if name.startswith(WRITING_PREFIX):
            return _writing_test_rows(parse_name(name), directory)
        if name.startswith(SELF_PREFIX):
            return self_rows(name, "test", directory) or SELF_TEST_ROWS
        if is_named(name):
            rows = _rows_of_task(name, "test")
            if not rows:
                raise ConfigError(
                    f"plan: TASKS: {name!r}: no test rows; allowed: with a test split"
                )
            return rows
        return self._split(name, "test")[1]

    def _is_missing(self, name: str) -> bool:
        if name.startswith(SELF_PREFIX):
            return not self_rows(name, "test", self._superni_cfg.data_dir)
        return not is_named(name) and name in self.store.missing("test")

    @functools.cache  # noqa: B019
    def _split(self, name: str, track: str) -> tuple[int, int]:
        """Training and test instances of a task of the release."""
        return split_counts(self._instances(name, track), track, self._superni_cfg.split_policy)

    def _instances(self, name: str, track: str) -> int:
        if name in self.store.missing(track):
            return self._mean(track)
        return len(self.store.task(name).instances)

    @functools.cache  # noqa: B019
    def _mean(self, track: str) -> int:
        """Instances of a task that has no file: the mean of those that have one."""
        names = self.store.names(track)
        if not names:
            raise DataError(f"{self.store.path}/tasks: no task of the {track} track has a file")
        return round(sum(self._instances(name, track) for name in names) / len(names))


def _writing_test_rows(name: WritingName, superni_dir: str | None) -> int:
    """Test rows of a writing set as published, or of the bundled suite."""
    published = sum(s.rows.get("test", 0) for s in SETS.values() if name.part in (s.name, s.task))
    directory = find_directory(superni_dir)
    if directory is None and name.part in (*TASKS, GENERIC):
        return sum(map(len, rows_of(name, "test", None).values()))
    return published


def _writing_train_rows(name: WritingName, superni_dir: str | None) -> int:
    """Training rows of a writing name; of a mixture as many as it says."""
    directory = find_directory(superni_dir)
    if name.is_mixture:
        return sum(counts_of(name, directory).values())
    return sum(map(len, rows_of(name, "train", directory).values()))


def _rows_of_task(name: str, split: str) -> int:
    """Rows of a file, or of a task registered with SeqIO; 0 where SeqIO does not know."""
    found = lookup.find(lookup.resolve(name))
    if isinstance(found, RowTask):
        return len(found.read_rows(split)) if split in found.splits else 0
    tasks = getattr(found, "tasks", (found,))  # of a mixture
    return sum(task.num_input_examples(split) or 0 for task in tasks if split in task.splits)
