"""The directories checkpoints live in: which there are, which are whole, the newest usable one."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from etils import epath

from t5x_ext import multihost
from t5x_ext.errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX = "checkpoint"  # T5X's name: MODEL_DIR/checkpoint_<step>
STATE, DATA, META, FINGERPRINT = "state", "data", "meta", "fingerprint"  # items of a checkpoint
MANIFEST = "manifest.json"

_UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax's suffix until the rename that ends a save


def checkpoint_dir(model_dir: epath.Path, step: int) -> epath.Path:
    """Where the checkpoint of a step lies."""
    return model_dir / f"{PREFIX}_{step}"


def saved_steps(model_dir: epath.Path) -> list[int]:
    """Steps with a finished (though perhaps since damaged) checkpoint, newest first."""
    if not model_dir.is_dir():
        return []
    matches = (re.fullmatch(rf"{PREFIX}_(\d+)", path.name) for path in model_dir.iterdir())
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def files_in(directory: epath.Path) -> Iterator[epath.Path]:
    """All files below a directory (an `epath` on a bucket has no recursive glob)."""
    for path in directory.iterdir():
        if path.is_dir():
            yield from files_in(path)
        else:
            yield path


def write_manifest(final: epath.Path) -> None:
    """Lists the sizes of a checkpoint's files in it; the last thing to be written.

    Args:
        final: The checkpoint's name once it is complete. On a bucket, which has no rename, it is
            being written there already, elsewhere under a temporary name.
    """
    directory = final.parent / (final.name + _UNFINISHED)
    if not directory.exists():
        directory = final
    # Orbax's own files outside the items are written after this one.
    items = [path for path in directory.iterdir() if path.is_dir()]
    sizes = {
        str(file.relative_to(directory)): file.stat().length
        for item in items
        for file in files_in(item)
    }
    (directory / MANIFEST).write_text(json.dumps({"bytes": sizes}, indent=1))


def check_manifest(checkpoint: epath.Path) -> None:
    """Checks that a checkpoint's files have the sizes they were saved with.

    Reading would fail on most of such damage too, but late and in many words. A checkpoint
    without a manifest passes.

    Raises:
        ValueError: If a file is missing or of another size, or the manifest itself is damaged.
    """
    manifest = checkpoint / MANIFEST
    if not manifest.exists():
        return
    for name, size in json.loads(manifest.read_text())["bytes"].items():
        file = checkpoint / name
        found = f"{file.stat().length} bytes" if file.exists() else "missing"
        if found != f"{size} bytes":
            raise ValueError(f"{name}: {found}, saved with {size} bytes")


def read_newest(
    model_dir: epath.Path, read: Callable[[epath.Path], T]
) -> tuple[T, list[epath.Path]]:
    """Reads the newest checkpoint that can be read, and says which newer ones could not.

    Args:
        model_dir: Directory with at least one `checkpoint_<step>`.
        read: Reads one checkpoint directory.

    Returns:
        What `read` returned, and the damaged checkpoints that were passed over.

    Raises:
        ConfigError: If `read` raises one (the checkpoint is sound, but not what is wanted), or
            if no checkpoint can be read.
    """
    damaged: list[epath.Path] = []
    first_error: Exception | None = None
    for step in saved_steps(model_dir):
        path = checkpoint_dir(model_dir, step)
        try:
            result = read(path)
        except (ConfigError, jax.errors.JaxRuntimeError):
            raise  # not the checkpoint's fault: another model, or a device out of memory
        except Exception as error:  # Damage surfaces as almost any exception type in Orbax.
            damaged.append(path)
            first_error = first_error or error
            continue
        if damaged:
            names = ", ".join(path.name for path in damaged)
            why = first_line(first_error)
            _warn_once(f"{model_dir}: {names} cannot be read ({why}); using {path.name}")
        return result, damaged
    raise ConfigError(
        f"{model_dir}: none of {len(damaged)} checkpoints can be read; the newest,"
        f" {damaged[0].name}: {first_line(first_error)}"
    )


@functools.cache
def _warn_once(message: str) -> None:
    """A command opens a MODEL_DIR more than once: to look what is there, and to read it."""
    logger.warning(message)


def in_agreement(read: Callable[[epath.Path], T]) -> Callable[[epath.Path], T]:
    """Makes processes that read together agree: what one cannot read is damaged for all.

    Otherwise, each reading other parts, they could end up with different checkpoints.

    Args:
        read: Reads one checkpoint directory; every process calls the result.
    """

    def read_together(path: epath.Path) -> T:
        result: Any = None
        damage: Exception | None = None
        try:
            result = read(path)
        except (ConfigError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # see read_newest
            damage = error
        elsewhere = [line for line in multihost.gather(damage and first_line(damage)) if line]
        if damage is not None:
            raise damage
        if elsewhere:
            raise ValueError(elsewhere[0])
        return result

    return read_together


def reason(error: Exception) -> str:
    """Why files could not be written, in one line; TensorStore says it at the end of a page."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(code[1]) if code else getattr(error, "errno", None)
    return os.strerror(number) if number else first_line(error)


def first_line(error: Any) -> str:
    """An exception in one line of bounded length."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:100]}" if lines else type(error).__name__
