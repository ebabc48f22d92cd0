"""The files of a tokenizer that travel with a checkpoint."""

from __future__ import annotations

from etils import epath

from mixtures.chat_templates import TEMPLATE_FILE

CONFIG_FILE = "tokenizer_config.json"
FILES = (
    "spiece.model",
    "sentencepiece.model",
    "vocab.model",
    "tokenizer.model",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE_FILE,
    CONFIG_FILE,
)


def files_in(directory: epath.Path) -> list[epath.Path]:
    """The tokenizer's files in a directory."""
    return [path for name in FILES if (path := directory / name).exists()]


def copy_tokenizer(source: epath.Path, destination: epath.Path) -> None:
    """Copies a tokenizer so that transformers' AutoTokenizer gives the ids it has here.

    From a SentencePiece model alone AutoTokenizer makes a tokenizer with other ids: without a
    tokenizer_config.json, all files are written again.

    Args:
        source: Directory with tokenizer files, see `files_in`.
        destination: Existing directory.

    Raises:
        mixtures.errors.DataError: If the files hold no vocabulary.
    """
    if (source / CONFIG_FILE).exists():
        for path in files_in(source):
            (destination / path.name).write_bytes(path.read_bytes())
    else:
        from mixtures.vocabularies import open_vocabulary, save_tokenizer

        save_tokenizer(open_vocabulary(str(source)), str(destination))
