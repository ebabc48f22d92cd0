"""The grid of a study as cells, each named by the hash of what determines its result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.studies.arms import DECODED, ZERO_SHOT, Arm
from t5x_ext.training.optimizers import Optax

# Raise it when a change of the code changes results; finished cells then no longer count.
RESULT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model to tune and score.

    Attributes:
      key: 16 hexadecimal digits, the hash of everything that determines the result.
      arm: the arm it belongs to.
      budget: canonical budget name.
      seed: of the subset, the data order and dropout.
      tasks: one task in STL, all of them in MTL.
      tuned_key: the same of what determines the tuned model, before it decodes.
    """

    key: str
    arm: Arm
    budget: str
    seed: int
    tasks: tuple[str, ...]
    tuned_key: str = ""

    def __str__(self) -> str:
        what = self.tasks[0] if len(self.tasks) == 1 else f"{len(self.tasks)} tasks"
        return f"{self.arm.name} {self.budget} seed {self.seed} {what}"


def digest(determinants: Any) -> str:
    """16 hexadecimal digits of a hash of JSON-able data (mappings in any order)."""
    text = json.dumps(determinants, sort_keys=True, ensure_ascii=False, default=_as_json)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(
        f"{value!r} cannot be part of a cell's key; allowed: numbers, strings and lists of them"
    )


def describe_model(model: BaseTransformerModel) -> dict[str, Any]:
    """The model settings that determine results; settings of how it is computed are left out.

    What belongs to decoder-only models, and quantised kernels without adapters, count only where
    they are set: the keys of stored results stay what they were.
    """
    optimizer = model.optimizer_def
    lora, quantization = model.module.lora, model.module.quantization
    adapters = {"lora": lora.describe(), "quantization": quantization} if lora else {}
    may_be_set = {
        "quantization": quantization,
        "loss_on_prompt": model.loss_on_prompt,
        "inputs_bidirectional_attention": model.inputs_bidirectional_attention,
        "network": model.module.fingerprint,
    }
    described = {
        "config": model.config.describe(),
        "vocabulary": model.output_vocabulary.fingerprint,
        "optimizer": type(optimizer).__name__,
        "optimizer_settings": (
            optimizer.describe() if isinstance(optimizer, Optax) else dataclasses.asdict(optimizer)
        ),
        "z_loss": model.z_loss,
        "label_smoothing": model.label_smoothing,
        "loss_normalizing_factor": model.loss_normalizing_factor,
    }
    return described | {name: value for name, value in may_be_set.items() if value} | adapters


@dataclasses.dataclass(frozen=True)
class Determinants:
    """What determines the models of a study's cells.

    Attributes:
      initial_keys: key of every initial model by name.
      common: what determines all cells alike (model, recipe, data policy).
      describe_prompt: prompt name -> versioned name.
      describe_data: name of an arm's own training data -> hash of it.
    """

    initial_keys: Mapping[str, str]
    common: Mapping[str, Any]
    describe_prompt: Callable[[str], str]
    describe_data: Callable[[str], str] = lambda name: name

    def of(self, arm: Arm, budget: str, seed: int, tasks: Mapping[str, str]) -> dict[str, Any]:
        """What determines a model that is tuned and tested on `tasks`, before it decodes."""
        found = {
            "version": RESULT_VERSION,
            "setting": arm.setting,
            "initial": self.initial_keys[arm.initial],
            "prompt": self.describe_prompt(arm.prompt),
            "budget": budget,
            "seed": seed,
            "tasks": dict(tasks),
            "common": self.common,
        }
        own = arm.describe()
        found |= {name: own[name] for name in ("tuning", "recipe") if name in own}
        if arm.data and budget != ZERO_SHOT:
            found["data"] = self.describe_data(arm.training_data(budget))
        return found

    def tuned_key(self, arm: Arm, budget: str, seed: int, tasks: Mapping[str, str]) -> str:
        """Key of the tuned model. Where an arm has its own data, its test sets play no part."""
        found = self.of(arm, budget, seed, tasks)
        if arm.data:
            del found["tasks"]
            found["common"] = {k: v for k, v in self.common.items() if k != "test_examples"}
        return digest(found)


def make_cells(
    arms: Sequence[Arm],
    tasks: Mapping[str, str],
    seeds: Sequence[int],
    determinants: Determinants,
) -> list[Cell]:
    """Every cell of the grid once, in an order that keeps shared things together.

    Args:
      arms: the arms.
      tasks: fingerprint of the data by task name.
      seeds: one cell per seed; zero-shot cells only for the first.
      determinants: make the keys.

    Returns:
      Cells ordered by setting, task, arm, budget and seed.

    Raises:
      ConfigError: an arm starts from an unknown initial model, or two arms are alike.
    """
    names = [arm.name for arm in arms]
    for arm in arms:
        if names.count(arm.name) > 1:
            raise ConfigError(
                f"study.arms: two arms are called {arm.name!r}; allowed: different names"
            )
        if arm.initial not in determinants.initial_keys:
            raise ConfigError(
                f"Arm {arm.name}: initial model {arm.initial!r} is not among the study's; "
                f"known: {', '.join(determinants.initial_keys)}"
            )

    def make_cell(arm: Arm, budget: str, seed: int, names: tuple[str, ...]) -> Cell:
        own_tasks = {name: tasks[name] for name in names}
        found = determinants.of(arm, budget, seed, own_tasks)
        own = arm.describe()
        found |= {name: own[name] for name in DECODED if name in own}
        tuned_key = determinants.tuned_key(arm, budget, seed, own_tasks)
        return Cell(digest(found), arm, budget, seed, names, tuned_key)

    groups = [((name,), "STL") for name in tasks] + [(tuple(sorted(tasks)), "MTL")]
    cells = [
        make_cell(arm, budget, seed, names)
        for names, setting in groups
        for arm in arms
        if arm.setting == setting
        for budget, seed in arm.runs(seeds)
    ]
    by_key: dict[str, Cell] = {}
    for cell in cells:
        twin = by_key.setdefault(cell.key, cell)
        if twin is not cell:
            raise ConfigError(f"study.arms: {twin} and {cell} are the same work; drop one")
    return cells
