"""Which ids of a SentencePiece model begin, end and pad a text.

T5's models reserve 0 for padding, 1 for the end and 2 for the unknown, and put nothing before a
text. Others, such as LLaMA's, say in the model which ids they reserve, and in the files next to it
whether a text begins with one of them and which tokens were added later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from mixtures.chat_templates import ChatTemplate
from mixtures.errors import DataError, quoted
from mixtures.tokenizer_files import Neighbours, read_neighbours

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """See the top of this module.

    Attributes:
        bos_id: begins a text; None if there is none.
        eos_ids: end a text: the model's own first, then those of generation_config.json, or
            of config.json where that lists none.
        pad_id: fills rows up; which positions are padding the segment ids say.
        unk_id: of what has no piece.
        prefix_ids: what stands before every text.
        by_text: ids of the tokens that texts may name, such as '</s>'.
        adds_inner_space: whether a space is put before what stands behind such a token, as before
            a text, where there is none ("legacy" of tokenizer_config.json).
        template: how a chat is written; None if no file says.
    """

    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int
    unk_id: int
    prefix_ids: tuple[int, ...] = ()
    by_text: Mapping[str, int] = dataclasses.field(default_factory=dict)
    adds_inner_space: bool = False
    template: ChatTemplate | None = None


T5 = SpecialTokens(None, (EOS_ID,), PAD_ID, UNK_ID)


def is_t5(processor: Any) -> bool:
    """Whether a model, as a `SentencePieceProcessor`, reserves the ids that T5's do."""
    reserved = processor.pad_id(), processor.eos_id(), processor.unk_id()
    return reserved == (PAD_ID, EOS_ID, UNK_ID)


def read(model: Any, processor: Any, path: str) -> SpecialTokens:
    """Reads the files next to a model, and adds the tokens that they list to it.

    Args:
        model: a `ModelProto`; is changed.
        processor: made of it.
        path: its file.

    Raises:
        DataError: no token ends a text, or the added tokens leave ids out.
    """
    beside = read_neighbours(epath.Path(path).parent)
    _add_tokens(model, beside, path)
    kinds = model.SentencePiece
    ids = {piece.piece: index for index, piece in enumerate(model.pieces)}
    by_text = {
        piece.piece: index
        for index, piece in enumerate(model.pieces)
        if piece.type in (kinds.CONTROL, kinds.UNKNOWN)
    }

    def find(name: str, own: int) -> int | None:
        named = ids.get(beside.token(name) or "")
        return named if named is not None else own if 0 <= own < len(ids) else None

    bos, eos = find("bos_token", processor.bos_id()), find("eos_token", processor.eos_id())
    eos_ids = tuple(dict.fromkeys((*([] if eos is None else [eos]), *beside.eos_ids)))
    if not eos_ids:
        raise DataError(
            f"vocabulary: {path}: no token ends a text; allowed: a model with an eos_id, an "
            "eos_token in tokenizer_config.json, or eos_token_id in generation_config.json "
            "or config.json"
        )
    has_bos = bos is not None and beside.config.get("add_bos_token", True)
    return SpecialTokens(
        bos_id=bos,
        eos_ids=eos_ids,
        pad_id=find("pad_token", processor.pad_id()) or 0,
        unk_id=processor.unk_id(),
        prefix_ids=(bos,) if bos is not None and has_bos else (),
        by_text=by_text,
        adds_inner_space=beside.config.get("legacy") is True,
        template=beside.template,
    )


def _add_tokens(model: Any, beside: Neighbours, path: str) -> None:
    kinds = model.SentencePiece
    for index, (text, is_special) in sorted(beside.added.items()):
        size = len(model.pieces)
        if index < size and model.pieces[index].piece == text:
            continue
        if index != size:
            raise DataError(
                f"vocabulary: {path}: added token {quoted(text)} has id {index}; allowed: "
                f"{size}, the next one, or the id of the piece with this text"
            )
        kind = kinds.CONTROL if is_special else kinds.USER_DEFINED
        model.pieces.add(piece=text, score=0.0, type=kind)
