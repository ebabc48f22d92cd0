"""Gold edits as JSON has them: what annotators made of a source's tokens."""

from __future__ import annotations

import json
from typing import Any

from mixtures.errors import DataError, quoted
from mixtures.writing.m2 import Edit

# Annotator -> edits in file order; an annotator without edits found nothing to correct.
GoldEdits = dict[int, tuple[Edit, ...]]


def parse_gold_edits(value: Any, where: str, source: str | None = None) -> GoldEdits:
    """Reads the field `edits`: {annotator: [[start, end, [text, ...], type], ...]}.

    Args:
        value: parsed JSON; a correction may be a single string, and the type may be missing.
        where: file and line number, for messages.
        source: the text whose tokens, separated by white space, positions count; None if that is
            not known.

    Raises:
        DataError: the value has another form, names an annotator twice, or has an edit outside of
            the source.
    """
    try:
        named = [(int(name), tuple(map(_edit, edits))) for name, edits in value.items()]
    except (AttributeError, TypeError, ValueError):
        named = []
    if not named:
        raise _wrong(
            where,
            value,
            'for each annotator a list of [start, end, [correction, ...]], as in {"0": [[1, 2, '
            '["a"]]]}',
        )
    found = dict(sorted(named))
    if len(found) < len(named):
        raise _wrong(where, list(value), "each annotator once")
    length = None if source is None else len(source.split())
    for edit in (edit for edits in found.values() for edit in edits):
        if length is not None and edit.end > length:
            allowed = f"0 <= start <= end <= {length}, the tokens of the source"
            raise _wrong(where, edit, allowed)
    return found


def _edit(fields: Any) -> Edit:
    start, end, corrections, *kind = fields
    corrections = (corrections,) if isinstance(corrections, str) else tuple(corrections)
    texts = [*corrections, *kind]
    if not (type(start) is type(end) is int and 0 <= start <= end and len(kind) <= 1):
        raise ValueError("not a span")
    if not corrections or not all(isinstance(text, str) for text in texts):
        raise ValueError("not a correction")
    return Edit(start, end, corrections, *kind)


def _wrong(where: str, value: Any, allowed: str) -> DataError:
    return DataError(f"{where}: field 'edits': {quoted(json.dumps(value))}; allowed: {allowed}")
