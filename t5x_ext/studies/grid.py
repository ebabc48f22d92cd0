"""The grid of a study: its cells with their keys, and how study.json describes it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mixtures.budgets import parse_budget
from mixtures.prompts import get_prompt
from mixtures.task_metrics import DEFAULT_METRICS, metrics_of
from t5x_ext.checkpoints import load_meta
from t5x_ext.configs import SuperNIConfig
from t5x_ext.grids import GENERATED, ZERO_SHOT
from t5x_ext.models import BaseTransformerModel
from t5x_ext.studies import store
from t5x_ext.studies.arms import Arm
from t5x_ext.studies.cells import Cell, Determinants, describe_model, make_cells
from t5x_ext.studies.generated_data import GeneratedData, GeneratedKeys, wanted_rows
from t5x_ext.studies.keys import find_further_eos_ids, key_initials
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.studies.task_data import TaskData


@dataclasses.dataclass(frozen=True)
class StudyGrid:
    """Every cell, and the keys of what cells start from and are trained on.

    Attributes:
      arms: with budgets by their canonical names.
      cells: arms x budgets x seeds, per task in STL.
      tasks: names.
      seeds: of the cells.
      initials: the initial models by name.
      initial_keys: their keys.
      superni_cfg: how task files are split.
      data: the tasks' rows.
      generated: keys of what models of the study write, and how many rows are wanted of each; None
        if they write nothing.
    """

    arms: Sequence[Arm]
    cells: list[Cell]
    tasks: Sequence[str]
    seeds: Sequence[int]
    initials: Mapping[str, InitialModel]
    initial_keys: Mapping[str, str]
    superni_cfg: SuperNIConfig
    data: TaskData
    generated: tuple[GeneratedKeys, Mapping[str, int]] | None

    def write(self, directory: epath.Path, name: str, published: str | None) -> None:
        """Writes study.json, with what initial models cost that are made already.

        Args:
          directory: the study's.
          name: title of the report.
          published: whose figures the report shows; None for nobody's.
        """
        described = {
            "format": 1,
            "name": name,
            "arms": [arm.describe() | {"label": arm.label or arm.name} for arm in self.arms],
            "tasks": list(map(self._describe_task, self.tasks)),
            "seeds": list(self.seeds),
            "split_policy": self.superni_cfg.split_policy,
        }
        if published:
            described["published"] = published
        if self.generated:
            keys, wanted = self.generated
            described["generated"] = {name: keys.rows(name) for name in wanted}
        described["initials"] = {
            name: {"label": initial.label or name, "key": self.initial_keys[name]}
            | _cost(directory, self.initial_keys[name])
            for name, initial in self.initials.items()
        }
        described["cells"] = [cell.key for cell in self.cells]
        store.write_json(directory / "study.json", described)

    def _describe_task(self, task: str) -> dict[str, Any]:
        # Arms with their own data: what the largest of them has.
        most = max((int(b[1:]) for arm in self.arms if arm.data for b in arm.budgets), default=0)
        own = metrics_of(task)
        return {
            "name": task,
            "category": self.data.category(task),
            "train_instances": self.data.num_train(task) or most,
            **({"metrics": own} if own != DEFAULT_METRICS else {}),
        }


def make_grid(
    model: BaseTransformerModel,
    initials: Mapping[str, InitialModel],
    arms: Sequence[Arm],
    recipe: Recipe,
    seeds: Sequence[int],
    tasks: Sequence[str] | None,
    superni_cfg: SuperNIConfig,
    data: TaskData,
    generated: Sequence[GeneratedData],
) -> StudyGrid:
    """Makes the cells of a study and their keys; arguments as those of `study.study`.

    Raises:
      ConfigError: a task, a budget, or the data of an arm is not known.
    """
    arms = [dataclasses.replace(arm, budgets=tuple(map(_canonical, arm.budgets))) for arm in arms]
    names = data.check_tasks(tasks)
    fingerprints = {task: data.fingerprint([task]) for task in names}
    policies = dataclasses.asdict(superni_cfg)
    del policies["data_dir"], policies["missing"]
    described = describe_model(model)
    further_eos_ids = functools.partial(find_further_eos_ids, model)
    initial_keys = key_initials(initials, described, policies, data, further_eos_ids)
    # A seed draws its own subset, so the SeqIO names' budget_seed plays no part in the cells.
    del policies["budget_seed"]
    common: dict[str, Any] = {"model": described, "recipe": recipe.describe(), "data": policies}
    if data.test_examples is not None:  # a study of all of them keeps the keys it always had
        common["test_examples"] = data.test_examples

    def describe_data(name: str) -> str:
        if name.startswith(GENERATED):
            return keys.rows(name.removeprefix(GENERATED))
        return data.fingerprint_named(name)

    determinants = Determinants(
        initial_keys, common, lambda prompt: get_prompt(prompt).versioned_name, describe_data
    )
    keys = GeneratedKeys(
        {each.name: each for each in generated},
        initial_keys,
        {arm.name: arm for arm in arms},
        seeds[0],
        lambda arm, budget, seed: determinants.tuned_key(arm, budget, seed, {}),
        described,
    )
    wanted = wanted_rows(arms)
    return StudyGrid(
        arms=arms,
        cells=make_cells(arms, fingerprints, seeds, determinants),
        tasks=names,
        seeds=seeds,
        initials=initials,
        initial_keys=initial_keys,
        superni_cfg=superni_cfg,
        data=data,
        generated=(keys, wanted) if wanted else None,
    )


def _canonical(budget: str) -> str:
    return budget if budget == ZERO_SHOT else parse_budget(budget).name


def _cost(directory: epath.Path, key: str) -> dict[str, float]:
    """What an initial model took to make; empty if it was given, or is not made yet."""
    if not store.is_made(directory, key):
        return {}
    made = store.initial_dir(directory, key) / "params"
    return {"train_secs": load_meta(str(made))["train_secs"]}
