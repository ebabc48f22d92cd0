"""A study's directory.

    STUDY_DIR/study.json                     the grid: arms, tasks, seeds, keys of all cells
    STUDY_DIR/initials/<key>/params          parameters that cells start from
    STUDY_DIR/initials/<key>/train           the run that made them (its checkpoints and logs)
    STUDY_DIR/initials/<key>/made.json       written last: the parameters are complete
    STUDY_DIR/generated/<key>/train.jsonl    rows that a model wrote, and the files they follow from
    STUDY_DIR/generated/<key>/made.json      written last: how many rows were asked for
    STUDY_DIR/adapters/<key>/                tuned adapters that write, or were tuned on such rows
    STUDY_DIR/cells/<key>/predictions.jsonl  scored predictions
    STUDY_DIR/cells/<key>/result.json        written last: a cell that has it is finished

Tasks that are answered more than once are in a separate directory of generated/.

Several processes may work on one directory: cells are dealt out by `--shard`, and an initial
model is made by whoever locks it first while the others wait. Buckets have no locks: there the
first shard makes all initial models. An adapter that writes is tuned by the shard that its cell
belongs to; the others do all else before they wait for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from etils import epath

from t5x_ext import files
from t5x_ext.errors import ConfigError
from t5x_ext.json_fields import Fields
from t5x_ext.studies.cells import Cell

MADE = "made.json"


def write_json(path: epath.Path, value: Any) -> None:
    """Writes a JSON file that appears whole or not at all."""
    files.write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def cell_dir(study_dir: epath.Path, cell: Cell) -> epath.Path:
    """Where a cell's files are."""
    return study_dir / "cells" / cell.key


def unfinished(study_dir: epath.Path, cells: Iterable[Cell]) -> list[Cell]:
    """Those of the cells that have no result yet."""
    # One listing: asking for each of a thousand cells takes a bucket a minute.
    finished = {path.parent.name for path in (study_dir / "cells").glob("*/result.json")}
    return [cell for cell in cells if cell.key not in finished]


def initial_dir(study_dir: epath.Path, key: str) -> epath.Path:
    """Where an initial model's files are."""
    return study_dir / "initials" / key


def generated_dir(study_dir: epath.Path, key: str) -> epath.Path:
    """Where generated rows, or the tasks that they answer, are."""
    return study_dir / "generated" / key


def rows_asked(directory: epath.Path) -> int:
    """How many generated rows a directory was asked for, and has unless no more came; 0: none."""
    path = directory / MADE
    return Fields(path).integer("asked") if files.is_file(path) else 0


def kept_nothing(directory: epath.Path) -> bool:
    """Whether generated rows were asked for, and not one was kept."""
    path = directory / MADE
    if not files.is_file(path):
        return False
    return Fields(path).inner("answers", {}).values.get("kept") == 0


def adapter_dir(study_dir: epath.Path, tuned_key: str) -> epath.Path:
    """Where a tuned adapter is."""
    return study_dir / "adapters" / tuned_key


def is_made(study_dir: epath.Path, key: str) -> bool:
    """Whether the parameters of an initial model are there, all of them."""
    directory = initial_dir(study_dir, key)
    if files.is_remote(study_dir):  # what is renamed there is copied, file by file
        return files.is_file(directory / MADE)
    return files.is_dir(directory / "params")


def parse_shard(shard: str | None) -> tuple[int, int]:
    """'2/5' -> (1, 5): the second of five parts, counted from 1; None is the only part.

    Raises:
      ConfigError: not of that form.
    """
    if shard is None:
        return 0, 1
    # isdigit() is true of '²' as well.
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise ConfigError(f"--shard={shard}: allowed: I/N with 1 <= I <= N, for example 1/4")
    return number - 1, count


def deal(cells: list[Cell], shard: str | None) -> list[Cell]:
    """The cells of one shard.

    Dealt by key, so that a cell belongs to the same shard whatever else the study holds.
    """
    index, count = parse_shard(shard)
    return [cell for cell in cells if shard_index(cell, count) == index]


def shard_index(cell: Cell, count: int) -> int:
    """Which of `count` shards a cell belongs to, from 0."""
    return int(cell.key, 16) % count
