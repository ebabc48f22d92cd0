"""Gold edits of predictions: what annotators made of a source's tokens."""

from __future__ import annotations

from typing import Any

from mixtures.writing.m2 import Edit
from t5x_ext.errors import ConfigError

# Annotator -> edits in file order; an annotator without edits found nothing to correct.
GoldEdits = dict[int, tuple[Edit, ...]]


def parse_gold_edits(value: Any, where: str) -> GoldEdits:
    """Reads the `edits` of a predictions file: {annotator: [[start, end, [text, ...], type]]}.

    Args:
        value: parsed JSON; a correction may be a single string, and the type may be missing.
        where: file and line number, for messages.

    Raises:
        ConfigError: the value has another form.
    """
    try:
        found = {int(name): tuple(map(_edit, edits)) for name, edits in value.items()}
    except (AttributeError, TypeError, ValueError):
        found = {}
    if not found:
        raise ConfigError(
            f"{where}: field 'edits': {str(value)[:57]}; allowed: for each annotator a list of "
            '[start, end, [correction, ...]], as in {"0": [[1, 2, ["a"]]]}'
        )
    return dict(sorted(found.items()))


def _edit(fields: Any) -> Edit:
    start, end, corrections, *kind = fields
    corrections = (corrections,) if isinstance(corrections, str) else tuple(corrections)
    texts = [*corrections, *kind]
    if not (type(start) is type(end) is int and 0 <= start <= end and len(kind) <= 1):
        raise ValueError("not a span")
    if not corrections or not all(isinstance(text, str) for text in texts):
        raise ValueError("not a correction")
    return Edit(start, end, corrections, *kind)
