"""M2 files: tokenised sentences with the edits of one or more annotators.

    S He go to school .
    A 1 2|||R:VERB:SVA|||goes||went|||REQUIRED|||-NONE-|||0
    A -1 -1|||noop|||-NONE-|||REQUIRED|||-NONE-|||1

An edit is start and end (in tokens), type, corrections (alternatives apart by `||`; `-NONE-` or
nothing for a deletion), two fields nobody uses, and the annotator. `noop`, or a negative position,
says that the annotator changed nothing. A sentence without `A` lines was changed by nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mixtures.errors import DataError, quoted
from mixtures.files import StrPath
from mixtures.writing.lines import read_lines

UNCORRECTED = "UNK"  # the type of a detected error that the annotator did not correct
_FIELDS = "start end|||type|||correction|||REQUIRED|||-NONE-|||annotator"


class Edit(NamedTuple):
    """Source tokens `start` to `end` (exclusive) become one of `corrections`; "" is a deletion."""

    start: int
    end: int
    corrections: tuple[str, ...]
    type: str = ""


@dataclass(frozen=True)
class Sentence:
    """A tokenised sentence and each annotator's edits, in file order.

    Attributes:
        source: tokens with spaces between them.
        edits: of each annotator.
        line: number of its `S` line in the file, from 1; 0 of none.
    """

    source: str
    edits: dict[int, tuple[Edit, ...]]
    line: int = field(default=0, compare=False)

    @property
    def references(self) -> tuple[str, ...]:
        """The sentence as each annotator corrected it, annotators in ascending order."""
        tokens = self.source.split()
        return tuple(" ".join(apply_edits(tokens, edits)) for edits in self.edits.values())

    def edits_as_json(self) -> str:
        """The edits as predictions files have them: {annotator: [[start, end, [...], type]]}."""
        return json.dumps({str(name): edits for name, edits in self.edits.items()})


def read_m2(path: StrPath) -> list[Sentence]:
    """Reads an M2 file.

    Raises:
        DataError: the file cannot be read or holds no sentence, or a line is wrong: names the line,
            the field and what is allowed.
    """
    found: list[Sentence] = []
    source, edits = "", {}  # type: str, dict[int, list[Edit]]
    is_open, begun = False, 0
    for number, line in enumerate([*read_lines(path), ""], start=1):
        where = f"{path}: line {number}"
        if is_open and (not line.strip() or line.startswith("S ") or line == "S"):
            found.append(_sentence(source, edits, begun))
            is_open = False
        if line.startswith("S ") or line == "S":
            source, edits, is_open, begun = line[2:], {}, True, number
        elif line.startswith("A ") and is_open:
            _add_edit(edits, line[2:], len(source.split()), where)
        elif line.strip():
            allowed = "'S tokens', then 'A ' lines of its edits, then a blank line"
            raise DataError(f"{where}: {quoted(line)}; allowed: {allowed}")
    if not found:
        raise DataError(
            f"{path}: holds no sentence; allowed: an M2 file, lines 'S ...' and 'A ...'"
        )
    return found


def apply_edits(tokens: Sequence[str], edits: Iterable[Edit]) -> list[str]:
    """The tokens after edits, the first alternative of each; uncorrected errors stay.

    They are applied from the right, since positions are the source's. Of edits that overlap the
    rightmost holds.
    """
    result = list(tokens)
    untouched = len(tokens)
    for edit in reversed(sorted(edits, key=lambda edit: (edit.start, edit.end))):
        if edit.type != UNCORRECTED and edit.end <= untouched:
            result[edit.start : edit.end] = edit.corrections[0].split()
            untouched = edit.start
    return result


def _sentence(source: str, edits: dict[int, list[Edit]], line: int) -> Sentence:
    every = {name: tuple(edits[name]) for name in sorted(edits)} or {0: ()}
    return Sentence(source, every, line)


def _add_edit(edits: dict[int, list[Edit]], text: str, length: int, where: str) -> None:
    """Adds the edit of an `A` line to its annotator's."""
    fields = text.split("|||")
    if len(fields) != 6:
        raise DataError(f"{where}: {len(fields)} fields; allowed: 6, {_FIELDS}")
    try:
        annotator = int(fields[5])
    except ValueError:
        raise _wrong(where, "annotator", fields[5], "an integer") from None
    try:
        start, end = map(int, fields[0].split())
    except ValueError:
        raise _wrong(where, "start end", fields[0], "two integers separated by a space") from None
    own = edits.setdefault(annotator, [])
    if fields[1] == "noop" or start < 0 or end < 0:
        return
    if not start <= end <= length:
        allowed = f"0 <= start <= end <= {length}, the tokens of the sentence"
        raise _wrong(where, "start end", fields[0], allowed)
    corrections = tuple("" if c == "-NONE-" else c.strip() for c in fields[2].split("||"))
    own.append(Edit(start, end, corrections, fields[1]))


def _wrong(where: str, field: str, value: str, allowed: str) -> DataError:
    return DataError(f"{where}: field '{field}': {quoted(value)}; allowed: {allowed}")
