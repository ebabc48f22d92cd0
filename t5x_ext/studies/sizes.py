"""How much work a study is, counted from its task files; no text is tokenised."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from mixtures.budgets import parse_budget
from mixtures.names import find_scope
from mixtures.release import Release, data_dir
from mixtures.splits import Splits, split_instances
from t5x_ext.configs import SuperNIConfig
from t5x_ext.studies.arms import ZERO_SHOT, Arm
from t5x_ext.studies.recipes import InitialModel, Recipe


@dataclasses.dataclass(frozen=True)
class StudySize:
    """The whole grid, with the initial models that it makes.

    Attributes:
      models: models that are tuned.
      steps: train steps of all of them; an upper bound where rows are packed.
      prompts: prompts that are decoded.
    """

    models: int
    steps: int
    prompts: int


def study_size(
    arms: Sequence[Arm],
    initials: Sequence[InitialModel],
    recipe: Recipe,
    seeds: Sequence[int],
    tasks: Sequence[str] | None,
    superni_cfg: SuperNIConfig,
) -> StudySize:
    """Counts models, steps and prompts of a study.

    Args:
      arms: the arms.
      initials: the initial models that arms start from.
      recipe: how cells are tuned.
      seeds: one cell each.
      tasks: names of test-track tasks; None takes all that have a file.
      superni_cfg: where task files are, and how they are split.

    Raises:
      mixtures.DataError: a name or file is wrong.
    """
    counts = _Counts(superni_cfg)
    names = tuple(counts.store.names("test") if tasks is None else tasks)
    sizes = [
        counts.cell(group, budget, recipe)
        for arm in arms
        for group in ([(name,) for name in names] if arm.setting == "STL" else [names])
        for budget in arm.budgets
        for _ in (seeds[:1] if str(budget) == ZERO_SHOT else seeds)
    ]
    by_name = {initial.name: initial for initial in initials}
    sizes += [counts.initial(by_name[name]) for name in _made(arms, by_name)]
    return StudySize(*(sum(column) for column in zip(*sizes, strict=True)))


def _made(arms: Sequence[Arm], initials: Mapping[str, InitialModel]) -> set[str]:
    """Names of the initial models that have to be tuned first."""
    made = set()
    for arm in arms:
        name: str | None = arm.initial
        while name is not None:
            made |= {name} if initials[name].scope else set()
            name = initials[name].base
    return made


class _Counts:
    def __init__(self, superni_cfg: SuperNIConfig) -> None:
        self.store = Release(data_dir(superni_cfg.data_dir), superni_cfg.missing)
        self._policy = superni_cfg.split_policy

    def cell(self, names: tuple[str, ...], budget: str, recipe: Recipe) -> tuple[int, int, int]:
        """(models, steps, prompts) of one cell."""
        prompts = sum(len(self._splits(name, "test").test) for name in names)
        if str(budget) == ZERO_SHOT:
            return 0, 0, prompts
        steps = self._steps(names, "test", budget, recipe)
        return int(steps > 0), steps, prompts

    def initial(self, initial: InitialModel) -> tuple[int, int, int]:
        """The same of an initial model; nothing is decoded with it."""
        scope = find_scope(initial.scope, self.store)
        return 1, self._steps(scope.tasks, scope.track, initial.budget, initial.recipe), 0

    def _steps(self, names: Sequence[str], track: str, budget: str, recipe: Recipe) -> int:
        wanted = parse_budget(budget)
        rows = 0
        for name in names:
            available = len(self._splits(name, track).train)
            rows += min(wanted.count(available), available)
        if rows == 0:
            return 0
        return recipe.num_steps(recipe.epochs * -(-rows // recipe.batch_size))

    @functools.cache  # noqa: B019 (as long as the counting)
    def _splits(self, name: str, track: str) -> Splits:
        return split_instances(self.store.task(name), track, self._policy)
