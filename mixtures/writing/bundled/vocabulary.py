"""The SentencePiece model of the writing suite: ``python -m mixtures.writing.bundled.vocabulary``.

Its training text is what a model of the suite reads and writes, the prompt's own words included:
the vocabulary of the bundled suite would spend a hundred tokens on those alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mixtures.bundled.vocabulary import train_vocabulary
from mixtures.prompts import get_prompt
from mixtures.vocabularies import writing_vocabulary
from mixtures.writing.names import DEFAULT_PROMPT, WritingName
from mixtures.writing.rows import BUNDLED_COUNTS, rows_of
from mixtures.writing.sets import SPLITS, TASKS
from t5x_ext.terminal import Parser, command, show

MODEL = Path(writing_vocabulary().sentencepiece_model_file)
SIZE = 1024  # pieces
_ROWS_PER_PART = 600


def build_vocabulary() -> bytes:
    """Trains the model again, byte for byte the same."""
    render = get_prompt(DEFAULT_PROMPT).render
    texts = []
    for part in (*TASKS, *(name for name in BUNDLED_COUNTS if name not in TASKS)):
        name = WritingName(part, budget=f"n{_ROWS_PER_PART}")
        for row in rows_of(name, SPLITS[0], None)[part]:
            texts += f"{render(row)}{row.references[0]}".split("\n")
    return train_vocabulary(filter(None, texts), SIZE)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status."""
    Parser("mixtures.writing.bundled.vocabulary", __doc__).parse_args(argv)
    MODEL.write_bytes(build_vocabulary())
    show(f"{MODEL}: {MODEL.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
