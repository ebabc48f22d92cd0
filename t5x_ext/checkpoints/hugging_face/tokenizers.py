"""The files of a tokenizer that travel with a checkpoint."""

from __future__ import annotations

import json

from etils import epath

CONFIG_FILE = "tokenizer_config.json"
FILES = (
    "spiece.model",
    "tokenizer.json",
    CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
)
# Other names under which a SentencePiece model may lie in a directory.
_OTHER_MODELS = ("sentencepiece.model", "vocab.model", "tokenizer.model")
_EXTRA_IDS = 100  # T5's sentinels


def files_in(directory: epath.Path) -> list[epath.Path]:
    """The tokenizer's files in a directory."""
    found = (directory / name for name in (*FILES, *_OTHER_MODELS))
    return [path for path in found if path.exists()]


def copy_tokenizer(source: epath.Path, destination: epath.Path) -> None:
    """Copies a tokenizer so that transformers' AutoTokenizer gives T5's ids.

    From a SentencePiece model alone AutoTokenizer would make a tokenizer with other ids: it also
    needs to be told the class, and looks for the name spiece.model.

    Args:
        source: Directory with tokenizer files, see `files_in`.
        destination: Existing directory.
    """
    files = files_in(source)
    for path in files:
        name = FILES[0] if path.name in _OTHER_MODELS else path.name
        (destination / name).write_bytes(path.read_bytes())
    if not any(path.name == CONFIG_FILE for path in files):
        config = {
            "tokenizer_class": "T5Tokenizer",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "extra_ids": _EXTRA_IDS,
            "additional_special_tokens": [f"<extra_id_{i}>" for i in range(_EXTRA_IDS)],
        }
        (destination / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
