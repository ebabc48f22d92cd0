"""The tokenizer in a GGUF file, as tokenizer.json and tokenizer_config.json.

A byte-level BPE's metadata are its pieces, their types and merges. How text is split before merging
is told by name only (`tokenizer.ggml.pre`); the expressions are those of llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from etils import epath

from t5x_ext.errors import ConfigError

_CONTROL, _USER_DEFINED = 3, 4  # token types

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = ("gpt-2", "default", "smollm", "llama-bpe", "llama3", "llama-v3")
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def write_tokenizer(value: Callable[[str], Any], directory: epath.Path, where: str) -> None:
    """Writes the files of a byte-level BPE.

    Args:
        value: The metadata of a name, or None.
        directory: Exists.
        where: The GGUF file, for messages.

    Raises:
        ConfigError: If it is another kind of tokenizer, or splits text in a way we do not know.
    """
    import tokenizers
    from tokenizers import decoders, models

    kind = value("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ConfigError(
            f"{where}: tokenizer.ggml.model is {kind!r}, which is not supported; allowed: 'gpt2'"
        )
    pieces = value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    model = models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = _splitter(value("tokenizer.ggml.pre") or "default", where)
    tokenizer.decoder = decoders.ByteLevel()
    types = value("tokenizer.ggml.token_type") or [1] * len(pieces)
    for piece, piece_type in zip(pieces, types, strict=True):
        if piece_type in (_CONTROL, _USER_DEFINED):
            special = piece_type == _CONTROL
            added = tokenizers.AddedToken(piece, normalized=False, special=special)
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([added])
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role, name in _ROLES.items():
        number = value(f"tokenizer.ggml.{name}")
        if number is not None:
            config[role] = pieces[number]
    config["add_bos_token"] = bool(value("tokenizer.ggml.add_bos_token"))
    if config["add_bos_token"] and "bos_token" in config:
        bos = config["bos_token"]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, pieces.index(bos))],
        )
    config["clean_up_tokenization_spaces"] = False
    config["model_max_length"] = value("llama.context_length")
    template = value("tokenizer.chat_template")
    if template is not None:
        config["chat_template"] = template
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n")
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _splitter(name: str, where: str) -> Any:
    import tokenizers
    from tokenizers import pre_tokenizers

    if name not in SPLITS:
        raise ConfigError(
            f"{where}: tokenizer.ggml.pre is {name!r}, which is not supported;"
            f" allowed: {', '.join(SPLITS)}"
        )
    if name in ("gpt-2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    split = pre_tokenizers.Split(tokenizers.Regex(_LLAMA_3), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, byte_level])
