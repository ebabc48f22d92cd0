"""How much work a study is, counted from its task files; no text is tokenised."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from t5x_ext.planning.study_plans import ModelSize, StudySize
from t5x_ext.studies.arms import ZERO_SHOT, Arm
from t5x_ext.studies.domain_sizes import text_sizes
from t5x_ext.studies.generated_data import GeneratedData, find_generated, tasks_owner, wanted_rows
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.studies.row_counts import RowCounts


def study_size(
    arms: Sequence[Arm],
    initials: Sequence[InitialModel],
    recipe: Recipe,
    seeds: Sequence[int],
    tasks: Sequence[str] | None,
    counts: RowCounts,
    generated: Sequence[GeneratedData] = (),
    max_tokens: int = 1 << 20,
) -> StudySize:
    """Counts models, steps, prompts and written texts of a study.

    Unlike the study itself, which leaves them out, this counts tasks that the release lists and
    that have no file here: a plan can be made before all data is there. Of writing sets the
    published numbers of test rows count.

    Args:
      arms: the arms; without those that tune all parameters in a study of adapters, since their
        steps cost other than the plan's.
      initials: the initial models that arms start from.
      recipe: how cells are tuned, but those of arms with a recipe of their own.
      seeds: one cell each.
      tasks: names of the tasks; None takes the whole test track.
      counts: of rows.
      generated: what models write.
      max_tokens: of the model's context.

    Raises:
      mixtures.DataError: a file is wrong, or no task has one.
      ConfigError: how many rows a cell is tuned on cannot be known.
    """
    names = tuple(counts.listed("test") if tasks is None else tasks)
    by_name = {initial.name: initial for initial in initials}
    models = [
        _cell(arm, by_name[arm.initial], group, budget, seed, recipe, counts)
        for arm in arms
        for group in ([(name,) for name in names] if arm.setting == "STL" else [names])
        for budget, seed in arm.runs(seeds)
    ]
    starts = [arm.initial for arm in arms] + [*_writers(arms, generated)]
    for name in _made(starts, by_name):
        initial = by_name[name]
        steps = _steps(functools.partial(counts.initial_rows, initial), initial.recipe)
        models.append(ModelSize(name, steps, prompts=0, is_initial=True))
    texts = text_sizes(generated, wanted_rows(arms), max_tokens)
    return StudySize(tuple(models), len(names), counts.missing(names), texts)


def _cell(
    arm: Arm,
    initial: InitialModel,
    names: Sequence[str],
    budget: str,
    seed: int,
    recipe: Recipe,
    counts: RowCounts,
) -> ModelSize:
    own = arm.recipe or recipe
    is_tuned = budget != ZERO_SHOT
    rows = functools.partial(counts.train_rows, arm, names, budget)
    steps = _steps(rows, own) if is_tuned else 0
    start = f"{initial.name}, seed {seed}" if initial.is_random else initial.name
    return ModelSize(start, steps, counts.prompts(names), trainer=own.trainer(steps))


def _steps(count_rows: Callable[[], int], recipe: Recipe) -> int:
    """Steps of a run; rows are counted only where steps depend on them."""
    if recipe.steps:
        return recipe.steps
    rows = count_rows()
    return recipe.num_steps(recipe.epochs * -(-rows // recipe.batch_size)) if rows else 0


def _writers(arms: Sequence[Arm], generated: Sequence[GeneratedData]) -> Iterator[str]:
    """Names of the models that write what arms are trained on; some are arms."""
    by_name = {data.name: data for data in generated}
    for name in wanted_rows(arms):
        data = find_generated(by_name, name)
        yield data.writer
        yield tasks_owner(data, by_name).writer


def _made(starts: Sequence[str], initials: Mapping[str, InitialModel]) -> list[str]:
    """Names of the initial models that have to be tuned first, in the order of the study."""
    used: set[str | None] = set()
    for name in starts:
        while name in initials:
            used.add(name)
            name = initials[name].base or ""
    return [name for name, initial in initials.items() if name in used and initial.is_tuned]
