"""A small SentencePiece vocabulary of your own data, for small models.

    python -m mixtures.train_vocabulary --data_dir natural-instructions --vocab_size 4000 my.model

T5's 32,000 pieces make the embedding of a small model larger than the rest of it; a vocabulary
trained on the train track covers the same texts with a few thousand. Ids are laid out as T5's:
0 padding, 1 end of sequence, 2 unknown; bytes stand in for characters that were not seen.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence

from mixtures import files
from mixtures.errors import DataError
from mixtures.release import Release, data_dir
from mixtures.vocabularies import SentencePieceVocabulary
from t5x_ext.terminal import Parser, command, note, show

# Texts longer than this teach nothing that their beginning does not.
_MAX_CHARACTERS = 600
_INSTANCES_PER_TASK = 30
_FORMAT = 1  # raise it when the same arguments give another vocabulary


def _texts_of(release: Release) -> Iterator[str]:
    """Definitions, inputs and references of the train track, the same number from every task."""
    for name in release.names("train"):
        task = release.task(name)
        yield task.definition[:_MAX_CHARACTERS]
        for instance in task.instances[:_INSTANCES_PER_TASK]:
            yield instance.input[:_MAX_CHARACTERS]
            yield instance.references[0][:_MAX_CHARACTERS]


def train_vocabulary(path: str | os.PathLike[str], release: Release, vocab_size: int) -> None:
    """Trains on the train track of `release` and writes `path`, whole or not at all.

    The result is a pure function of the arguments.

    Args:
        path: the `.model` file to write.
        release: its train track is the text to train on.
        vocab_size: number of pieces, the reserved ids and 256 bytes included.

    Raises:
        DataError: SentencePiece cannot make that many pieces from these texts, or the file cannot
            be written.
    """
    target = files.path(path, "OUT.model")
    model = _train(release, vocab_size)
    try:
        files.write_bytes(target, model)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror})") from None


def _train(release: Release, vocab_size: int) -> bytes:
    """The serialized model."""
    import sentencepiece

    # A list: SentencePiece would put its own error in the place of one about a task file.
    lines = [line for text in _texts_of(release) for line in text.splitlines() if line.strip()]
    model = io.BytesIO()  # and not a file, whose name would become a part of the model
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            byte_fallback=True,
            character_coverage=0.9995,
            max_sentence_length=4 * _MAX_CHARACTERS,
            num_threads=1,  # with more, ties are broken by chance
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        # "INTERNAL: file.cc(744) [condition] What is wrong and which sizes would do."
        reason = str(error).splitlines()[0].rpartition("] ")[2] or "allowed: 1 or more"
        raise DataError(f"vocab_size {vocab_size}: {reason}") from None
    return model.getvalue()


def trained_vocabulary(
    vocab_size: int = 4000, data_dir_path: str | None = None, cache_dir: str | None = None
) -> SentencePieceVocabulary:
    """The vocabulary of a release's train track, trained when it is first asked for.

    Args:
        vocab_size: number of pieces.
        data_dir_path: release directory; None takes $SUPERNI_DIR, else the bundled suite.
        cache_dir: where models are kept; None is $T5X_EXT_CACHE, else ~/.cache/t5x_ext.

    Raises:
        DataError: see `train_vocabulary`.
    """
    release = Release(data_dir(data_dir_path))
    names = release.names("train")
    key = f"{_FORMAT} {vocab_size} {release.fingerprint(names)}"
    name = f"vocab-{vocab_size}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.model"
    cache = cache_dir or os.environ.get("T5X_EXT_CACHE") or "~/.cache/t5x_ext"
    path = files.local_path(cache, "T5X_EXT_CACHE") / name
    if not files.is_file(path):
        note(f"training a vocabulary of {vocab_size} pieces on {len(names)} tasks -> {path}")
        train_vocabulary(path, release, vocab_size)
    return SentencePieceVocabulary(str(path))


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status."""
    parser = Parser("mixtures.train_vocabulary", __doc__)
    parser.add_argument("out", metavar="OUT.model", help="the SentencePiece file to write")
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="task files (default: $SUPERNI_DIR, else the bundled suite)",
    )
    parser.add_argument(
        "--vocab_size",
        type=int,
        default=4000,
        metavar="N",
        help="number of pieces (default: %(default)s)",
    )
    flags = parser.parse_args(argv)
    train_vocabulary(flags.out, Release(data_dir(flags.data_dir)), flags.vocab_size)
    show(f"{flags.vocab_size} pieces -> {flags.out}")


if __name__ == "__main__":
    sys.exit(main())
