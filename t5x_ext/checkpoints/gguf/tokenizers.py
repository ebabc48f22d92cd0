"""The tokenizer in a GGUF file, as the files that Hugging Face has of it.

A SentencePiece model's metadata are its pieces, their types and scores: together tokenizer.model. A
byte-level BPE's are its pieces, their types and merges: tokenizer.json. How text is split before
merging is told by name only (`tokenizer.ggml.pre`); the expressions are those of llama.cpp. So are
two rules that it has for LLaMA 3's name alone: a word that is a piece is not split, whatever the
merges say, and a text begins with BOS unless `tokenizer.ggml.add_bos_token` is false.
"""

from __future__ import annotations

import functools
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
_LLAMA_3_NAMES = ("llama-bpe", "llama3", "llama-v3")
SPLITS = ("gpt-2", "default", "smollm", *_LLAMA_3_NAMES)
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def write_tokenizer(value: Callable[[str], Any], directory: epath.Path, where: str) -> None:
    """Writes the files of a tokenizer, tokenizer_config.json among them.

    Args:
        value: The metadata of a name, or None.
        directory: Exists.
        where: The GGUF file, for messages.

    Raises:
        ConfigError: If it is another kind of tokenizer, or splits text in a way we do not know.
    """
    kinds = {
        "gpt2": (_write_byte_level, ("tokens", "merges")),
        "llama": (_write_sentencepiece, ("tokens", "scores", "token_type")),
    }
    value = functools.cache(value)  # a reader takes a list of pieces together anew at every call
    kind = value("tokenizer.ggml.model")
    if kind not in kinds:
        raise ConfigError(
            f"{where}: tokenizer.ggml.model is {kind!r}, which is not supported; allowed: "
            f"{', '.join(map(repr, kinds))}"
        )
    write, needed = kinds[kind]
    for name in needed:
        if not value(f"tokenizer.ggml.{name}"):
            raise ConfigError(f"{where}: has no tokenizer.ggml.{name}, which {kind!r} needs")
    _check_columns(value, where)
    write(value, _config(value, where), directory, where)


def _check_columns(value: Callable[[str], Any], where: str) -> None:
    """Raises ConfigError if the metadata of pieces are not as many, or not of the type they are."""
    count = len(value("tokenizer.ggml.tokens"))
    for name, kind in {"tokens": str, "merges": str, "scores": float, "token_type": int}.items():
        column = value(f"tokenizer.ggml.{name}")
        if column is None:
            continue
        kinds = (float, int) if kind is float else kind
        if not isinstance(column, list) or not all(isinstance(one, kinds) for one in column):
            raise ConfigError(
                f"{where}: tokenizer.ggml.{name}: {column!r:.60}; allowed: a list of "
                f"{kind.__name__}"
            )
        if name != "merges" and len(column) != count:
            raise ConfigError(
                f"{where}: tokenizer.ggml.{name}: {len(column)} for {count} tokens; allowed: one "
                "for each"
            )


def _config(value: Callable[[str], Any], where: str) -> dict[str, Any]:
    """What tokenizer_config.json says of both kinds."""
    pieces = value("tokenizer.ggml.tokens")
    config: dict[str, Any] = {}
    for role, name in _ROLES.items():
        number = value(f"tokenizer.ggml.{name}")
        if number is None:
            continue
        if not isinstance(number, int) or not 0 <= number < len(pieces):
            raise ConfigError(
                f"{where}: tokenizer.ggml.{name} is {number!r}; allowed: the id of one of its "
                f"{len(pieces)} tokens, from 0"
            )
        config[role] = pieces[number]
    config["add_bos_token"] = bool(value("tokenizer.ggml.add_bos_token"))
    config["clean_up_tokenization_spaces"] = False
    config["model_max_length"] = value("llama.context_length")
    template = value("tokenizer.chat_template")
    if template is not None:
        config["chat_template"] = template
    return config


def _write_config(directory: epath.Path, tokenizer_class: str, config: dict[str, Any]) -> None:
    content = {"tokenizer_class": tokenizer_class} | config
    (directory / "tokenizer_config.json").write_text(json.dumps(content, indent=2) + "\n")


def _write_sentencepiece(
    value: Callable[[str], Any], config: dict[str, Any], directory: epath.Path, where: str
) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    adds_space = value("tokenizer.ggml.add_space_prefix")
    model.normalizer_spec.add_dummy_prefix = True if adds_space is None else bool(adds_space)
    columns = [value(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type")]
    for piece, score, piece_type in zip(*columns, strict=True):
        model.pieces.add(piece=piece, score=float(score), type=int(piece_type))
    for role in ("bos", "eos", "unk", "pad"):
        if f"{role}_token" in config:
            setattr(model.trainer_spec, f"{role}_piece", config[f"{role}_token"])
    if value("tokenizer.ggml.add_bos_token") is None:
        config["add_bos_token"] = True  # as llama.cpp takes it for this kind
    (directory / "tokenizer.model").write_bytes(model.SerializeToString(deterministic=True))
    _write_config(directory, "LlamaTokenizer", config)


def _write_byte_level(
    value: Callable[[str], Any], config: dict[str, Any], directory: epath.Path, where: str
) -> None:
    import tokenizers
    from tokenizers import decoders, models

    pieces = value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    split = value("tokenizer.ggml.pre") or "default"
    is_llama_3 = split in _LLAMA_3_NAMES
    if value("tokenizer.ggml.add_bos_token") is None:
        config["add_bos_token"] = is_llama_3
    vocab = {piece: i for i, piece in enumerate(pieces)}
    for merge in merges:  # `tokenizers` panics at some of these
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocab.keys():
            raise ConfigError(
                f"{where}: tokenizer.ggml.merges: {' '.join(merge)!r}; allowed: two tokens that "
                "together are one, with a space between them"
            )
    model = models.BPE(vocab=vocab, merges=merges, ignore_merges=is_llama_3)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = _splitter(split, where)
    tokenizer.decoder = decoders.ByteLevel()
    types = value("tokenizer.ggml.token_type") or [1] * len(pieces)
    for piece, piece_type in zip(pieces, types, strict=True):
        if piece_type in (_CONTROL, _USER_DEFINED):
            special = piece_type == _CONTROL
            added = tokenizers.AddedToken(piece, normalized=False, special=special)
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([added])
    if config["add_bos_token"] and "bos_token" in config:
        bos = config["bos_token"]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, pieces.index(bos))],
        )
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n")
    _write_config(directory, "PreTrainedTokenizerFast", config)


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
