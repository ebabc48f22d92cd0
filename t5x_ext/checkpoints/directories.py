"""The directories checkpoints live in: which there are, and the newest sound one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

from etils import epath

from mixtures.errors import warn_once
from t5x_ext import files, multihost
from t5x_ext.checkpoints.damage import Damage, first_line
from t5x_ext.errors import ConfigError

T = TypeVar("T")

PREFIX = "checkpoint"  # T5X's name: MODEL_DIR/checkpoint_<step>
STATE, DATA, META, FINGERPRINT = "state", "data", "meta", "fingerprint"  # items of a checkpoint


def checkpoint_dir(model_dir: epath.Path, step: int) -> epath.Path:
    """Where the checkpoint of a step lies."""
    return model_dir / f"{PREFIX}_{step}"


def saved_steps(model_dir: epath.Path) -> list[int]:
    """Steps with a finished (though perhaps since damaged) checkpoint, newest first."""
    names = files.names_in(model_dir) if files.is_dir(model_dir) else []
    steps = map(step_in_name, names)
    return sorted((step for step in steps if step is not None), reverse=True)


def step_in_name(path: str) -> int | None:
    """The step that a checkpoint's path ends in; None for another name."""
    match = re.fullmatch(rf"{PREFIX}_(\d+)", path.rstrip("/").rpartition("/")[2])
    return int(match[1]) if match else None


def refuse_pipes(directory: epath.Path, below: bool) -> None:
    """Refuses pipes, devices and the like, which would be waited for or read for ever.

    Args:
        directory: A checkpoint or a MODEL_DIR. A bucket, which has no such things, passes.
        below: Whether to look into the directories in it as well, as is to be done for a
            checkpoint. Links to directories are refused in these: they may lead back.

    Raises:
        ConfigError: If there is one.
    """
    if not os.path.isdir(directory):
        return
    left = [os.fspath(directory)]
    while left:
        here = left.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir():
                    if entry.is_symlink() and here != os.fspath(directory):
                        raise ConfigError(f"{entry.path}: a link to a directory")
                    left += [entry.path] if below else []
                elif os.path.exists(entry.path) and not entry.is_file():
                    raise ConfigError(f"{entry.path}: neither a file nor a directory")


def read_newest(
    model_dir: epath.Path, read: Callable[[epath.Path], T]
) -> tuple[T, list[epath.Path]]:
    """Reads the newest checkpoint that is sound, and says which newer ones are damaged.

    Args:
        model_dir: Directory with at least one `checkpoint_<step>`.
        read: Reads one checkpoint directory; raises `Damage` if it is damaged.

    Returns:
        What `read` returned, and the damaged checkpoints that were passed over.

    Raises:
        ConfigError: If the newest sound checkpoint is not what is wanted or cannot be read now, or
            if all are damaged.
    """
    damaged: list[epath.Path] = []
    first_damage: Damage | None = None
    for step in saved_steps(model_dir):
        path = checkpoint_dir(model_dir, step)
        try:
            result = read(path)
        except Damage as damage:
            damaged.append(path)
            first_damage = first_damage or damage
            continue
        if damaged:
            names = ", ".join(path.name for path in damaged)
            warn_once(f"{model_dir}: {names} cannot be read ({first_damage}); using {path.name}")
        return result, damaged
    raise ConfigError(
        f"{model_dir}: none of {len(damaged)} checkpoints can be read; the newest,"
        f" {damaged[0].name}: {first_damage}"
    )


def in_agreement(read: Callable[[epath.Path], T]) -> Callable[[epath.Path], T]:
    """Makes processes that read together agree on what each of them has met.

    What is damaged for one is damaged for all: otherwise, each reading other parts, they could end
    up with different checkpoints. What ends one ends all, which would wait for it in vain.

    Args:
        read: Reads one checkpoint directory; every process calls the result.
    """

    def read_together(path: epath.Path) -> T:
        result: Any = None
        error: Exception | None = None
        try:
            result = read(path)
        except Exception as caught:
            error = caught
        damage = str(error) if isinstance(error, Damage) else None
        fatal = first_line(error) if error and damage is None else None
        outcomes = multihost.gather({"damage": damage, "fatal": fatal})
        if error is not None and fatal:
            raise error
        for number, outcome in enumerate(outcomes):
            if outcome["fatal"]:
                raise ConfigError(f"{path}: process {number} cannot read it: {outcome['fatal']}")
        for outcome in outcomes:
            if outcome["damage"]:
                raise Damage(outcome["damage"]) from error
        return result

    return read_together
