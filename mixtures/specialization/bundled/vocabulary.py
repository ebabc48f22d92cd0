"""The harbour's SentencePiece model: ``python -m mixtures.specialization.bundled.vocabulary``.

Its training text is what a model of the harbour reads and writes, the words of the prompts
included: a list of tasks would take twice the tokens in the vocabulary of the bundled suite.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mixtures.bundled.vocabulary import train_vocabulary
from mixtures.prompts import get_prompt
from mixtures.specialization.bundled import pretraining, sets
from mixtures.specialization.names import DEFAULT_PROMPT
from mixtures.vocabularies import harbour_vocabulary
from t5x_ext.terminal import Parser, command, show

MODEL = Path(harbour_vocabulary().sentencepiece_model_file)
SIZE = 1024  # pieces
_TEXTS, _ROWS_PER_SET = 600, 100


def build_vocabulary() -> bytes:
    """Trains the model again, byte for byte the same."""
    pairs = [(row.input, row) for row in pretraining.texts()[:_TEXTS]]
    render = get_prompt(DEFAULT_PROMPT).render
    for name in sets.NAMES:
        pairs += [(render(row), row) for row in sets.read(name, "train")[:_ROWS_PER_SET]]
    texts = [line for prompt, row in pairs for line in f"{prompt}{row.references[0]}".split("\n")]
    return train_vocabulary(filter(None, texts), SIZE)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status."""
    Parser("mixtures.specialization.bundled.vocabulary", __doc__).parse_args(argv)
    MODEL.write_bytes(build_vocabulary())
    show(f"{MODEL}: {MODEL.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
