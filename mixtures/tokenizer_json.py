"""SentencePiece models as the `tokenizer.json` of Hugging Face's tokenizers, both ways.

A tokenizer of the T5 family is a SentencePiece model: pieces with scores behind a compiled
normalizer. Recent versions of Transformers save such a tokenizer as `tokenizer.json` alone, from
which `to_sentencepiece` gets the model back. `from_sentencepiece` describes the models that
Transformers would not rebuild from their `.model` file as they are: those trained with BPE or byte
fallback, and those that keep white space.
"""

from __future__ import annotations

import base64
import re
from typing import Any

_SPACE = "▁"
_RESERVED = 3  # padding, end of sequence, unknown
_SENTINEL = re.compile(r"<extra_id_\d+>")
_NORMALIZERS = ("Precompiled", "Strip", "Replace")  # all that the T5 family's files have


def to_sentencepiece(tokenizer: dict[str, Any]) -> Any:
    """The SentencePiece model of a `tokenizer.json`, without its sentinels.

    Args:
        tokenizer: the file, parsed.

    Returns:
        A `ModelProto`.

    Raises:
        ValueError, LookupError, TypeError: it is not a tokenizer of the T5 family.
    """
    from sentencepiece import sentencepiece_model_pb2

    unigram = tokenizer["model"]
    if unigram["type"] != "Unigram" or unigram["unk_id"] != 2:
        raise ValueError(f"model {unigram['type']}, unk_id {unigram.get('unk_id')}")
    normalizers = _steps(tokenizer["normalizer"], "normalizers")
    _check_white_space(normalizers, _steps(tokenizer["pre_tokenizer"], "pretokenizers"))
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.trainer_spec.byte_fallback = unigram.get("byte_fallback", False)
    for step in normalizers:
        if step["type"] == "Precompiled":
            charsmap = base64.b64decode(step["precompiled_charsmap"])
            model.normalizer_spec.precompiled_charsmap = charsmap
    pieces = dict(enumerate(unigram["vocab"]))
    for token in tokenizer["added_tokens"]:
        pieces.setdefault(token["id"], (token["content"], None))
    if sorted(pieces) != list(range(len(pieces))):
        raise ValueError("gaps between its ids")
    listed = [pieces[index] for index in range(len(pieces))]
    while _SENTINEL.fullmatch(listed[-1][0]):
        listed.pop()
    for index, (name, score) in enumerate(listed):
        kind = _piece_type(model, index, name, score)
        model.pieces.add(piece=name, score=score or 0.0, type=kind)
    return model


def _check_white_space(normalizers: list[dict[str, Any]], splits: list[dict[str, Any]]) -> None:
    """Raises ValueError unless words are marked, and spaces folded, as T5's own model does it."""
    for step in normalizers:
        if step["type"] not in _NORMALIZERS:
            raise ValueError(f"normalizer {step['type']}")
    kinds = {step["type"]: step for step in splits}
    metaspace = kinds.get("Metaspace", {"prepend_scheme": "never"})
    if metaspace.get("prepend_scheme", "always") == "never":
        raise ValueError("no space before the first word")
    if "WhitespaceSplit" not in kinds and "Replace" not in [step["type"] for step in normalizers]:
        raise ValueError("repeated spaces are kept")


def _piece_type(model: Any, index: int, name: str, score: float | None) -> int:
    types = model.SentencePiece
    if index < _RESERVED:
        return types.UNKNOWN if index == 2 else types.CONTROL
    if model.trainer_spec.byte_fallback and re.fullmatch("<0x[0-9A-F]{2}>", name):
        return types.BYTE
    return types.USER_DEFINED if score is None else types.NORMAL


def _steps(step: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as the list of its steps."""
    if step is None:
        return []
    return step[members] if step["type"] == "Sequence" else [step]


def from_sentencepiece(model: Any, extra_ids: int) -> dict[str, Any] | None:
    """The `tokenizer.json` of a model; None if Transformers' T5Tokenizer builds the same itself.

    Args:
        model: a `ModelProto` without the extra ids.
        extra_ids: sentinels to add at the end, the first one last.
    """
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    is_bpe = trainer.model_type == trainer.BPE
    if not is_bpe and not trainer.byte_fallback:
        if normalizer.add_dummy_prefix and normalizer.remove_extra_whitespaces:
            return None
    names = [piece.piece for piece in model.pieces]
    special = names[:_RESERVED] + [f"<extra_id_{i}>" for i in reversed(range(extra_ids))]
    ids = [*range(_RESERVED), *range(len(names), len(names) + extra_ids)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(*token) for token in zip(ids, special, strict=True)],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model.normalizer_spec)},
        "pre_tokenizer": None,
        "post_processor": _append_eos(names[1]),
        "decoder": {"type": "Sequence", "decoders": _decoders(model.normalizer_spec)},
        "model": _bpe(model, names) if is_bpe else _unigram(model),
    }


def _added_token(index: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": True}


def _normalizers(spec: Any) -> list[dict[str, Any]]:
    """White space is marked here and not by a pre-tokenizer, which would drop some of it."""
    charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
    steps: list[dict[str, Any]] = [{"type": "Precompiled", "precompiled_charsmap": charsmap}]
    if spec.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]


def _decoders(spec: Any) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if spec.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps


def _append_eos(eos: str) -> dict[str, Any]:
    def template(*texts: str) -> list[dict[str, Any]]:
        ending = {"SpecialToken": {"id": eos, "type_id": 0}}
        return [part for t in texts for part in ({"Sequence": {"id": t, "type_id": 0}}, ending)]

    return {
        "type": "TemplateProcessing",
        "single": template("A"),
        "pair": template("A", "B"),
        "special_tokens": {eos: {"id": eos, "ids": [1], "tokens": [eos]}},
    }


def _unigram(model: Any) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": 2,
        "vocab": [[piece.piece, piece.score] for piece in model.pieces],
        "byte_fallback": model.trainer_spec.byte_fallback,
    }


def _bpe(model: Any, names: list[str]) -> dict[str, Any]:
    """Merges are not stored in a SentencePiece model: pieces are made in the order of scores."""
    ids = {name: index for index, name in enumerate(names)}
    learned = sorted(
        (piece for piece in model.pieces if piece.type == piece.NORMAL),
        key=lambda piece: -piece.score,
    )
    merges = [
        (name[:cut], name[cut:])
        for name in (piece.piece for piece in learned)
        for cut in range(1, len(name))
        if name[:cut] in ids and name[cut:] in ids
    ]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": names[2],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.trainer_spec.byte_fallback,
        "ignore_merges": False,
        "vocab": ids,
        "merges": merges,
    }
