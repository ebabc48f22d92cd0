"""Reads a study directory: study.json and the cells that have finished.

    STUDY_DIR/study.json                   the grid: arms, tasks, seeds
    STUDY_DIR/cells/<key>/result.json      scores, counts and times of one trained model
    STUDY_DIR/cells/<key>/predictions.jsonl

A cell without result.json is unfinished and only counted. Where study.json lists `cells` (their
keys), other directories under cells/ are left over from another configuration and are ignored, and
cells not begun count as unfinished too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from mixtures.task_metrics import metrics_of
from t5x_ext import files
from t5x_ext.errors import ConfigError, printable
from t5x_ext.grids import SETTINGS, ZERO_SHOT, Arm
from t5x_ext.json_fields import Fields, refuse_repeated
from t5x_ext.metrics.catalogue import NAMES
from t5x_ext.metrics.scoring import METRICS

SETTING_TITLES = {"STL": "Single task (STL)", "MTL": "Multi task (MTL)"}
_BUDGET = r"n[0-9]{1,9}|p[0-9]{1,3}|all"


@dataclass(frozen=True)
class Task:
    """A task of the grid; `train_instances` is all it has to train on.

    `metrics` are the names of the metrics it is scored with, the one of its column first.
    """

    name: str
    category: str
    train_instances: int
    metrics: tuple[str, ...] = METRICS


@dataclass(frozen=True)
class FinishedCell:
    """What a cell left behind. `scores[task]` has `n` and each metric in percent."""

    key: str
    directory: epath.Path
    arm: str
    budget: str
    seed: int
    scores: dict[str, dict[str, float]]
    train_examples: int  # 0 if not recorded
    train_examples_by_task: dict[str, int]
    steps: int
    train_secs: float
    decode_secs: float
    leaked_tasks: tuple[str, ...]
    truncated_by_task: dict[str, tuple[int, int]]  # rows cut in train, in test
    targets_truncated_by_task: dict[str, int]  # training rows of which a target is cut, by source
    stopped_by_task: dict[str, float]  # percent of answers that ended by themselves
    short_tasks: dict[str, int]  # task -> rows there were, fewer than the budget
    diverged: bool  # its loss stopped being a finite number
    cleaned_answers: dict[str, int]  # step -> answers that it changed
    parameters: int  # of the model; 0 if not recorded
    trainable_parameters: int
    parameter_bytes: int  # of all parameters; 0 if not recorded
    sources: dict[str, int]  # rows by set, of an arm that says what it is trained on
    passes: float  # over those rows


@dataclass(frozen=True)
class Study:
    """The grid and every finished cell."""

    directory: epath.Path
    name: str
    arms: tuple[Arm, ...]
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    split_policy: str
    initials: dict[str, dict[str, Any]]
    cells: tuple[FinishedCell, ...]
    unfinished_cells: int
    published: str = ""  # the paper whose figures are shown next to the study's own
    has_own_recipes: bool = False  # whether some arm is tuned in another way than the others
    # Of what models of the study wrote for themselves, the name -> directory.
    generated: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_own_metrics(self) -> bool:
        """Whether some task is scored by other metrics than ROUGE-L and its companions."""
        return any(task.metrics != METRICS for task in self.tasks)

    def arm(self, name: str) -> Arm:
        """The arm of this name; every cell's arm is one of the study's."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def leaked_tasks(self) -> tuple[str, ...]:
        """Tasks that some cell was trained on and tested on with the same rows."""
        return tuple(sorted({task for cell in self.cells for task in cell.leaked_tasks}))

    def cells_of(self, arm: str, budget: str) -> list[FinishedCell]:
        """The finished cells of an arm on a budget."""
        return [cell for cell in self.cells if (cell.arm, cell.budget) == (arm, budget)]

    def missing_scores(self) -> dict[tuple[str, str], int]:
        """{(arm, budget): how many (seed, task) scores are not there yet}, only where some are.

        Zero-shot scores do not depend on the seed: one seed is enough.
        """
        found: dict[tuple[str, str], set[tuple[int, str]]] = {}
        for cell in self.cells:
            pairs = found.setdefault((cell.arm, cell.budget), set())
            seed = self.seeds[0] if cell.budget == ZERO_SHOT else cell.seed
            pairs.update((seed, task) for task in cell.scores)
        missing = {}
        for arm in self.arms:
            for budget in arm.budgets:
                seeds = 1 if budget == ZERO_SHOT else len(self.seeds)
                count = seeds * len(self.tasks) - len(found.get((arm.name, budget), ()))
                if count > 0:
                    missing[arm.name, budget] = count
        return missing


def read_study(directory: str | os.PathLike[str]) -> Study:
    """Reads and checks a study directory.

    Raises:
        ConfigError: there is no study.json, a file is malformed, no cell has finished, or two
            cells hold the same score.
    """
    root = files.path(directory, "STUDY_DIR")
    path = root / "study.json"
    if not files.is_file(path):
        raise ConfigError(
            f"{root}: no study.json here; a directory written by t5x_ext.study is needed"
        )
    grid = Fields(path)
    for name in ("arms", "tasks"):
        refuse_repeated(grid.objects(name), "name", lambda each: each.text("name"))
    arms = tuple(map(_arm, grid.objects("arms")))
    tasks = tuple(map(_task, grid.objects("tasks")))
    seeds = grid.integers("seeds")
    planned = _planned(grid)
    finished, unfinished = _read_cells(root / "cells", planned)
    restricted = (_restrict(cell, arms, tasks, seeds) for cell in finished)
    cells = tuple(cell for cell in restricted if cell.scores)
    if not cells:
        left_over = len(list((root / "cells").glob("*/result.json"))) - len(finished)
        raise ConfigError(
            f"{root}: no finished cell yet ({unfinished} unfinished"
            + f", {left_over} finished of another configuration" * bool(left_over)
            + "); at least one is needed"
        )
    _refuse_duplicates(cells)
    return Study(
        directory=root,
        name=grid.text("name"),
        arms=arms,
        tasks=tasks,
        seeds=seeds,
        split_policy=grid.text("split_policy", "not recorded"),
        initials=_initials(grid),
        cells=cells,
        unfinished_cells=unfinished,
        published=grid.text("published", ""),
        has_own_recipes=any("recipe" in arm.values for arm in grid.objects("arms")),
        generated=_generated(grid),
    )


def _arm(fields: Fields) -> Arm:
    name = fields.text("name")
    setting = fields.text("setting")
    if setting not in SETTINGS:
        raise fields.error("setting", "STL, MTL")
    budgets = fields.texts("budgets")
    if not budgets or not all(re.fullmatch(_BUDGET, budget) for budget in budgets):
        raise fields.error("budgets", "a list of different budgets such as n0, n100, p1, all")
    return Arm(
        name=name,
        setting=setting,
        initial=fields.text("initial"),
        prompt=fields.text("prompt"),
        budgets=budgets,
        baseline=fields.get("baseline", bool),
        label=fields.text("label", "") or name,
        data=fields.text("data", ""),
    )


def _task(fields: Fields) -> Task:
    name = fields.text("name")
    metrics = fields.texts("metrics", metrics_of(name))
    if not metrics or not set(metrics) <= set(NAMES):
        raise fields.error("metrics", f"a list of metrics: {', '.join(NAMES)}")
    return Task(name, fields.text("category"), fields.integer("train_instances"), metrics)


def _initials(grid: Fields) -> dict[str, dict[str, Any]]:
    """What is said of each initial model: its `label`, and `train_secs` where it was made here."""
    found: dict[str, dict[str, Any]] = {}
    initials = grid.inner("initials", {})
    for name in initials.values:
        fields = initials.inner(name)
        found[printable(name)] = {"label": fields.text("label", name)}
        if "train_secs" in fields.values:
            found[printable(name)]["train_secs"] = fields.number("train_secs")
    return found


def _generated(grid: Fields) -> dict[str, str]:
    """Directories of what models wrote for themselves, by name."""
    fields = grid.inner("generated", {})
    found = {printable(name): fields.text(name) for name in fields.values}
    for name, key in found.items():
        if not re.fullmatch(r"[0-9a-f]{16}", key):
            raise fields.error(name, "the key of generated data")
    return found


def _planned(grid: Fields) -> set[str] | None:
    """Names of the cells' directories; None if the study does not list them."""
    if "cells" not in grid.values:
        return None
    names = grid.texts("cells")
    if not all(re.fullmatch(r"[\w-][\w.-]{0,200}", name) for name in names):
        raise grid.error("cells", "a list of directory names")
    return set(names)


def _read_cells(directory: epath.Path, planned: set[str] | None) -> tuple[list[FinishedCell], int]:
    cells = []
    unfinished = 0
    names = files.names_in(directory) if planned is None else sorted(planned)
    for path in (directory / name for name in names):
        if files.is_file(path / "result.json"):
            cells.append(_cell(path))
        else:
            unfinished += 1
    return cells, unfinished


def _cell(directory: epath.Path) -> FinishedCell:
    fields = Fields(directory / "result.json")
    by_task = fields.inner("scores").inner("by_task")
    scores = {}
    for task in by_task.values:
        row = by_task.inner(task)
        own = (name for name in row.values if name not in ("category", "n"))
        metrics = {name: row.number(name, high=100) for name in dict.fromkeys((*METRICS, *own))}
        scores[printable(task)] = {"n": row.integer("n", low=1), **metrics}
    truncated = fields.inner("truncated_by_task", {})
    stopped = fields.inner("stopped_by_task", {})
    return FinishedCell(
        key=directory.name,
        directory=directory,
        arm=fields.text("arm"),
        budget=fields.text("budget"),
        seed=fields.get("seed", int),
        scores=scores,
        train_examples=fields.integer("train_examples", 0),
        train_examples_by_task=fields.counts("train_examples_by_task"),
        steps=fields.integer("steps", 0),
        train_secs=fields.number("train_secs", 0.0),
        decode_secs=fields.number("decode_secs", 0.0),
        leaked_tasks=fields.texts("leaked_tasks", ()),
        truncated_by_task={printable(task): _pair(truncated, task) for task in truncated.values},
        targets_truncated_by_task=fields.counts("targets_truncated_by_task", {}),
        stopped_by_task={printable(t): stopped.number(t, high=100) for t in stopped.values},
        short_tasks=fields.counts("short_tasks", {}),
        diverged=None in fields.get("train_loss", list, []),
        cleaned_answers=fields.counts("cleaned_answers", {}),
        parameters=fields.integer("parameters", 0),
        trainable_parameters=fields.integer("trainable_parameters", 0),
        parameter_bytes=fields.integer("parameter_bytes", 0),
        sources=fields.counts("sources", {}),
        passes=fields.number("passes", 0.0),
    )


def _pair(fields: Fields, task: str) -> tuple[int, int]:
    counts = fields.values[task]
    if not (
        isinstance(counts, list)
        and [type(count) for count in counts] == [int, int]
        and min(counts) >= 0
    ):
        raise fields.error(task, "a list of two integers, 0 and more")
    return counts[0], counts[1]


def _restrict(
    cell: FinishedCell, arms: tuple[Arm, ...], tasks: tuple[Task, ...], seeds: tuple
) -> FinishedCell:
    """The cell with the scores that belong to the grid (none if its arm or seed left the grid)."""
    budgets = {arm.name: arm.budgets for arm in arms}
    names = {task.name for task in tasks}
    if cell.budget not in budgets.get(cell.arm, ()) or cell.seed not in seeds:
        names = set()
    scores = {task: score for task, score in cell.scores.items() if task in names}
    return FinishedCell(**{**vars(cell), "scores": scores})


def _refuse_duplicates(cells: tuple[FinishedCell, ...]) -> None:
    owner: dict[tuple[str, str, int, str], str] = {}
    for cell in cells:
        for task in cell.scores:
            place = (cell.arm, cell.budget, cell.seed, task)
            if place in owner:
                raise ConfigError(
                    f"{cell.directory.parent}: cells '{owner[place]}' and '{cell.key}' both hold "
                    f"arm '{cell.arm}', budget '{cell.budget}', seed {cell.seed}, task '{task}'; "
                    "remove the one that is out of date"
                )
            owner[place] = cell.key
