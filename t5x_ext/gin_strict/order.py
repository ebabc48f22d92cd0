"""The order of gin files: settings that a file of defaults takes back because it comes later.

Later files win, so the files of models come first, then those of runs, then the user's own. Given
the other way round, gin says nothing: the run has the defaults.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5x_ext.gin_strict.source import COMMAND_LINE, Binding, GinFile

_logger = logging.getLogger("t5x_ext")


class _Level(enum.IntEnum):
    """Whose settings a file holds. Those of a higher level are meant to win."""

    MODEL = 0  # files of gin_configs/models, and what they include
    SHIPPED = 1  # other files of gin_configs
    OWN = 2  # the user's files


def warn_of_order(sources: Sequence[GinFile], shipped: Path) -> None:
    """Warns, in one line, of settings that a later file of a lower level has replaced.

    Args:
        sources: The files in order and last the command line, whose settings win rightly.
        shipped: The directory of the package's own gin files.
    """
    highest: dict[str, tuple[_Level, Binding]] = {}
    last: dict[str, tuple[_Level, Binding]] = {}
    for source in sources:
        for level, binding in _levels(source, shipped.resolve(), _Level.OWN):
            last[binding.name] = level, binding
            known = highest.get(binding.name)
            if not binding.is_required and (known is None or level >= known[0]):
                highest[binding.name] = level, binding
    lost = [
        f"{name} ({meant.place}) by {kept.place}"
        for name, (wanted, meant) in highest.items()
        for level, kept in [last[name]]
        if level < wanted and kept.value != meant.value and not kept.is_required
    ]
    if lost:
        _logger.warning(
            "replaced by a file of defaults that comes later: %s; give the files of models first, "
            "then those of runs, then your own",
            ", ".join(lost),
        )


def _levels(source: GinFile, shipped: Path, outer: _Level) -> Iterator[tuple[_Level, Binding]]:
    """Yields the bindings in order of effect; what a model's file includes belongs to the model."""
    level = min(_level(source.path, shipped), outer)
    for statement in source.statements:
        if isinstance(statement, GinFile):
            yield from _levels(statement, shipped, level)
        elif isinstance(statement, Binding):
            yield (_Level.OWN if statement.place.startswith(COMMAND_LINE) else level), statement


def _level(path: str, shipped: Path) -> _Level:
    resolved = Path(path).resolve()
    if shipped not in resolved.parents:
        return _Level.OWN
    return _Level.MODEL if resolved.parent == shipped / "models" else _Level.SHIPPED
