"""How much work a study is, counted from its task files; no text is tokenised."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from mixtures.budgets import parse_budget
from mixtures.errors import DataError
from mixtures.names import HELD_IN, PRETUNE, find_scope
from mixtures.release import Release, data_dir
from mixtures.splits import split_counts
from mixtures.writing.bundled.rows import bundled_items
from mixtures.writing.names import PREFIX as WRITING_PREFIX
from mixtures.writing.names import parse_name
from mixtures.writing.rows import find_directory
from mixtures.writing.sets import SETS, TASKS
from t5x_ext.configs import SuperNIConfig
from t5x_ext.planning.study_plans import ModelSize, StudySize
from t5x_ext.studies.arms import ZERO_SHOT, Arm
from t5x_ext.studies.recipes import InitialModel, Recipe


def study_size(
    arms: Sequence[Arm],
    initials: Sequence[InitialModel],
    recipe: Recipe,
    seeds: Sequence[int],
    tasks: Sequence[str] | None,
    superni_cfg: SuperNIConfig,
    test_examples: int | None = None,
) -> StudySize:
    """Counts models, steps and prompts of a study.

    Unlike the study itself, which leaves them out, this counts tasks that the release lists and
    that have no file here: a plan can be made before all data is there. Of writing sets the
    published numbers of test rows count.

    Args:
      arms: the arms; without those that tune all parameters in a study of adapters, since their
        steps cost other than the plan's.
      initials: the initial models that arms start from.
      recipe: how cells are tuned.
      seeds: one cell each.
      tasks: names of test-track tasks; None takes the whole test track.
      superni_cfg: where task files are, and how they are split.
      test_examples: of each task that are decoded; None takes all.

    Raises:
      mixtures.DataError: a file is wrong, or no task has one.
    """
    counts = _Counts(superni_cfg, test_examples)
    names = tuple(counts.listed("test") if tasks is None else tasks)
    by_name = {initial.name: initial for initial in initials}
    models = [
        counts.cell(by_name[arm.initial], group, budget, recipe, seed)
        for arm in arms
        for group in ([(name,) for name in names] if arm.setting == "STL" else [names])
        for budget, seed in arm.runs(seeds)
    ]
    models += [counts.initial(by_name[name]) for name in _made(arms, by_name)]
    missing = set(names) & set(counts.missing)
    return StudySize(tuple(models), len(names), len(missing))


def _made(arms: Sequence[Arm], initials: Mapping[str, InitialModel]) -> set[str]:
    """Names of the initial models that have to be tuned first."""
    made = set()
    for arm in arms:
        name: str | None = arm.initial
        while name is not None:
            made |= {name} if initials[name].is_tuned else set()
            name = initials[name].base
    return made


def _writing_rows(name: str) -> int:
    """Test rows of a writing set as published, or of the bundled suite."""
    part = parse_name(name).part
    published = sum(s.rows.get("test", 0) for s in SETS.values() if part in (s.name, s.task))
    if part in TASKS:  # without your own data the bundled suite is tested
        return published if find_directory(None) else len(bundled_items(part, "test"))
    return published


class _Counts:
    def __init__(self, superni_cfg: SuperNIConfig, test_examples: int | None) -> None:
        self._test_examples = test_examples
        self._superni_cfg = superni_cfg
        self._policy = superni_cfg.split_policy

    @functools.cached_property
    def store(self) -> Release:
        """The task files; studies of sets with their own names need none."""
        return Release(data_dir(self._superni_cfg.data_dir), self._superni_cfg.missing)

    @property
    def missing(self) -> tuple[str, ...]:
        """Tasks of the test track without a file, as far as a track was asked for."""
        return self.store.missing("test") if "store" in vars(self) else ()

    def listed(self, track: str) -> tuple[str, ...]:
        """The track's tasks, with or without a file."""
        return self.store.names(track) + self.store.missing(track)

    def cell(
        self, initial: InitialModel, names: Sequence[str], budget: str, recipe: Recipe, seed: int
    ) -> ModelSize:
        """One cell of an arm."""
        most = self._test_examples
        counts = (self._split(name, "test")[1] for name in names)
        prompts = sum(count if most is None else min(count, most) for count in counts)
        if budget == ZERO_SHOT:
            steps = 0
        elif recipe.steps:
            steps = recipe.steps
        else:
            steps = self._steps(names, "test", budget, recipe)
        start = f"{initial.name}, seed {seed}" if initial.is_random else initial.name
        return ModelSize(start, steps, prompts, trainer=recipe.trainer(steps))

    def initial(self, initial: InitialModel) -> ModelSize:
        """An initial model that the study makes; nothing is decoded with it."""
        if initial.scope is None:  # tuned on named data; its files need not exist at planning time
            return ModelSize(initial.name, initial.recipe.num_steps(0), 0, is_initial=True)
        scope = find_scope(initial.scope, self.store)
        is_track = initial.scope in (HELD_IN, PRETUNE)
        names = self.listed(scope.track) if is_track else scope.tasks
        steps = self._steps(names, scope.track, initial.budget, initial.recipe)
        return ModelSize(initial.name, steps, prompts=0, is_initial=True)

    def _steps(self, names: Sequence[str], track: str, budget: str, recipe: Recipe) -> int:
        wanted = parse_budget(budget)
        available = (self._split(name, track)[0] for name in names)
        rows = sum(min(wanted.count(count), count) for count in available)
        if rows == 0:
            return 0
        return recipe.num_steps(recipe.epochs * -(-rows // recipe.batch_size))

    @functools.cache  # noqa: B019 (as long as the counting)
    def _split(self, name: str, track: str) -> tuple[int, int]:
        """Training and test instances of a task."""
        if name.startswith(WRITING_PREFIX):
            return 0, _writing_rows(name)
        return split_counts(self._instances(name, track), track, self._policy)

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
