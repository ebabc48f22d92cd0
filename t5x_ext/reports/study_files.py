"""Reads a study directory: study.json and the cells that have finished.

    STUDY_DIR/study.json                   the grid: arms, tasks, seeds
    STUDY_DIR/cells/<key>/result.json      scores, counts and times of one trained model
    STUDY_DIR/cells/<key>/predictions.jsonl

A cell without result.json is unfinished and only counted. Where study.json lists `cells` (their
keys), other directories under cells/ are left over from another configuration and are ignored, and
cells not begun count as unfinished too.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from etils import epath

from t5x_ext import files
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.scoring import METRICS

SETTINGS = ("STL", "MTL")
SETTING_TITLES = {"STL": "Single task (STL)", "MTL": "Multi task (MTL)"}
ZERO_SHOT = "n0"


@dataclass(frozen=True)
class Arm:
    """One way to train: a setting, a starting point and a prompt, at one or more budgets."""

    name: str
    setting: str  # "STL" or "MTL"
    initial: str
    prompt: str
    budgets: tuple[str, ...]  # n0 n10 ... p1 all
    baseline: bool
    label: str


@dataclass(frozen=True)
class Task:
    """A task of the grid; `train_instances` is all it has to train on."""

    name: str
    category: str
    train_instances: int


@dataclass(frozen=True)
class Cell:
    """A finished cell. `scores[task]` has `n` and each metric in percent."""

    key: str
    directory: epath.Path
    arm: str
    budget: str
    seed: int
    scores: dict[str, dict[str, float]]
    train_examples_by_task: dict[str, int]
    steps: int
    train_secs: float
    decode_secs: float
    leaked_tasks: tuple[str, ...]
    truncated_by_task: dict[str, tuple[int, int]]  # rows cut in train, in test
    short_tasks: dict[str, int]  # task -> rows there were, fewer than the budget
    diverged: bool  # its loss stopped being a finite number


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
    cells: tuple[Cell, ...]
    unfinished_cells: int

    def arm(self, name: str) -> Arm:
        """The arm of this name; every cell's arm is one of the study's."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def leaked_tasks(self) -> tuple[str, ...]:
        """Tasks that some cell was trained on and tested on with the same rows."""
        return tuple(sorted({task for cell in self.cells for task in cell.leaked_tasks}))

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
    grid = _Fields(path)
    arms = tuple(_arm(fields) for fields in grid.objects("arms"))
    tasks = tuple(
        Task(task.get("name", str), task.get("category", str), task.get("train_instances", int))
        for task in grid.objects("tasks")
    )
    seeds = tuple(grid.get("seeds", list))
    planned = set(grid.get("cells", list)) if "cells" in grid.values else None
    finished, unfinished = _read_cells(root / "cells", planned)
    restricted = (_restrict(cell, arms, tasks, seeds) for cell in finished)
    cells = tuple(cell for cell in restricted if cell.scores)
    if not cells:
        raise ConfigError(
            f"{root}: no finished cell yet ({unfinished} unfinished); at least one is needed"
        )
    _refuse_duplicates(cells)
    return Study(
        directory=root,
        name=grid.get("name", str),
        arms=arms,
        tasks=tasks,
        seeds=seeds,
        split_policy=grid.get("split_policy", str, "not recorded"),
        initials=grid.get("initials", dict, {}),
        cells=cells,
        unfinished_cells=unfinished,
    )


def _arm(fields: _Fields) -> Arm:
    name = fields.get("name", str)
    setting = fields.get("setting", str)
    if setting not in SETTINGS:
        raise ConfigError(f"{fields.where}: field 'setting': '{setting}'; allowed: STL, MTL")
    return Arm(
        name=name,
        setting=setting,
        initial=fields.get("initial", str),
        prompt=fields.get("prompt", str),
        budgets=tuple(fields.get("budgets", list)),
        baseline=fields.get("baseline", bool),
        label=fields.get("label", str, "") or name,
    )


def _read_cells(directory: epath.Path, planned: set[str] | None) -> tuple[list[Cell], int]:
    cells = []
    unfinished = 0
    names = files.names_in(directory) if planned is None else sorted(planned)
    for path in (directory / name for name in names):
        if files.is_file(path / "result.json"):
            cells.append(_cell(path))
        else:
            unfinished += 1
    return cells, unfinished


def _cell(directory: epath.Path) -> Cell:
    fields = _Fields(directory / "result.json")
    by_task = fields.inner("scores").get("by_task", dict)
    scores = {}
    for task in by_task:
        row = _Fields(fields.path, by_task[task], f"scores.by_task.{task}.")
        scores[task] = {name: row.get(name, (int, float)) for name in ("n", *METRICS)}
    truncated = fields.get("truncated_by_task", dict, {})
    return Cell(
        key=directory.name,
        directory=directory,
        arm=fields.get("arm", str),
        budget=fields.get("budget", str),
        seed=fields.get("seed", int),
        scores=scores,
        train_examples_by_task=fields.get("train_examples_by_task", dict),
        steps=fields.get("steps", int, 0),
        train_secs=fields.get("train_secs", (int, float), 0.0),
        decode_secs=fields.get("decode_secs", (int, float), 0.0),
        leaked_tasks=tuple(fields.get("leaked_tasks", list, [])),
        truncated_by_task={task: _pair(fields, task) for task in truncated},
        short_tasks=fields.get("short_tasks", dict, {}),
        diverged=None in fields.get("train_loss", list, []),
    )


def _pair(fields: _Fields, task: str) -> tuple[int, int]:
    counts = fields.values["truncated_by_task"][task]
    if not (isinstance(counts, list) and [type(count) for count in counts] == [int, int]):
        raise ConfigError(
            f"{fields.path}: field 'truncated_by_task.{task}': {json.dumps(counts)[:60]}; "
            "allowed: a list of two integers"
        )
    return counts[0], counts[1]


def _restrict(cell: Cell, arms: tuple[Arm, ...], tasks: tuple[Task, ...], seeds: tuple) -> Cell:
    """The cell with the scores that belong to the grid (none if its arm or seed left the grid)."""
    budgets = {arm.name: arm.budgets for arm in arms}
    names = {task.name for task in tasks}
    if cell.budget not in budgets.get(cell.arm, ()) or cell.seed not in seeds:
        names = set()
    scores = {task: score for task, score in cell.scores.items() if task in names}
    return Cell(**{**vars(cell), "scores": scores})


def _refuse_duplicates(cells: tuple[Cell, ...]) -> None:
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


class _Fields:
    """A JSON object whose fields are checked as they are taken."""

    def __init__(self, path: epath.Path, values: Any = None, prefix: str = ""):
        self.path = path
        self.where = f"{path}: {prefix[:-1]}" if prefix else str(path)
        self._prefix = prefix
        self.values = self._load() if values is None else values
        if not isinstance(self.values, dict):
            raise ConfigError(f"{self.where}: not a JSON object")

    def _load(self) -> Any:
        text = files.read_text(self.path)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self.path}: cannot be read as JSON ({error})") from None

    def get(self, name: str, kind: type | tuple[type, ...], *default: Any) -> Any:
        """The field's value; the default (if one is given) where the field is absent."""
        if name not in self.values and default:
            return default[0]
        value = self.values.get(name)
        # bool is an int to Python, never to a reader of JSON.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            allowed = " or ".join(_JSON_NAMES[k] for k in kinds)
            found = json.dumps(value)[:60] if name in self.values else "missing"
            raise ConfigError(
                f"{self.path}: field '{self._prefix}{name}': {found}; allowed: {allowed}"
            )
        return value

    def inner(self, name: str) -> _Fields:
        """The object in field `name`."""
        return _Fields(self.path, self.get(name, dict), f"{self._prefix}{name}.")

    def objects(self, name: str) -> list[_Fields]:
        """The objects in the list in field `name`."""
        items = self.get(name, list)
        return [_Fields(self.path, v, f"{self._prefix}{name}[{i}].") for i, v in enumerate(items)]


_JSON_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
