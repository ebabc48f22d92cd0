"""The suite's SentencePiece model.

The model is of type BPE: its training counts pairs in integers, so the result does not depend on
floating-point libraries as the unigram type's does.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import sentencepiece

# Pieces that every text may need: a character that the suite lacks is not unknown.
REQUIRED_CHARACTERS = "".join(chr(code) for code in range(33, 127))


def train_vocabulary(texts: Iterable[str], size: int) -> bytes:
    """Trains a SentencePiece model with T5's special ids (pad 0, eos 1, unk 2, no bos).

    Args:
        texts: The training text, a sentence or more each.
        size: Number of pieces.

    Returns:
        The serialized model.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        required_chars=REQUIRED_CHARACTERS,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
