"""What a text changes in its source, word by word, for readers."""

from __future__ import annotations

import difflib
from typing import Literal

Kind = Literal["keep", "delete", "insert"]


def mark_edits(source: str, text: str) -> list[tuple[Kind, str]]:
    """The source and what became of it, from left to right.

    `"He play well ."`, `"He plays well ."` -> keep `"He"`, delete `"play"`, insert `"plays"`,
    keep `"well ."`
    """
    before, after = source.split(), text.split()
    marks: list[tuple[Kind, str]] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, before, after, False).get_opcodes():
        parts: tuple[tuple[Kind, list[str]], ...] = (
            (("keep", before[i:j]),)
            if tag == "equal"
            else (("delete", before[i:j]), ("insert", after[k:m]))
        )
        marks += [(kind, " ".join(words)) for kind, words in parts if words]
    return marks
