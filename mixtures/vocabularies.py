"""Vocabularies: text to token ids and back, without TensorFlow.

The ids are those of SeqIO's vocabularies of the same names, so that tokens made here and tokens
made by a SeqIO pipeline (`as_seqio`) are the same. T5's reserved ids are 0 for padding, 1 for the
end of a text and 2 for the unknown; LLaMA's are as its model says, and so is its BOS.

A SentencePiece model is named by a path, which may be

* a `.model` file on this machine,
* a directory that holds one, such as a Hugging Face directory (`spiece.model`, `tokenizer.model`,
  or `tokenizer.json` alone, as recent versions of Transformers save it), a checkpoint or a
  MODEL_DIR,
* a remote file such as T5's public `T5_VOCABULARY`; it is fetched when the first token is asked
  for, not before.

`open_vocabulary` also tells a SentencePiece model from ByT5's bytes, and from the byte-level BPE of
a `tokenizer.json` (see json_vocabularies.py), which it takes where there is a `tokenizer.model`
beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from etils import epath

from mixtures import (
    files,
    json_vocabularies,
    sentencepiece_models,
    special_tokens,
    tokenizer_files,
    tokenizer_json,
)
from mixtures.chat_templates import ChatTemplate
from mixtures.errors import DataError, quoted
from mixtures.json_vocabularies import JsonVocabulary
from mixtures.special_tokens import EOS_ID, PAD_ID, UNK_ID

T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
T5_EXTRA_IDS = 100
MT5_VOCABULARY = "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"
BYT5_EXTRA_IDS = 125

_MAX_EXTRA_IDS = 1 << 20  # more than any model has rows

_SPECIAL_TOKENS = ("pad_token", "eos_token", "unk_token")  # ids 0, 1, 2


@runtime_checkable
class Vocabulary(Protocol):
    """What the rest of the project asks of a vocabulary."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, extra ids included."""

    @property
    def pad_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def unk_id(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that determines the ids."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without an end-of-sequence id."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids` up to the first end-of-sequence id."""

    def as_seqio(self) -> Any:
        """The `seqio.Vocabulary` that gives the same ids."""


@dataclasses.dataclass(frozen=True)
class SentencePieceVocabulary:
    """A SentencePiece model, loaded when it is first used.

    Attributes:
        sentencepiece_model_file: a `.model` file, a directory that holds one, or a remote path.
        extra_ids: sentinels `<extra_id_0>`, ... to have at the end, the first one last (T5 has
            100). Those that the model has already, as mT5's does, are not added again.
    """

    sentencepiece_model_file: str
    extra_ids: int = 0

    def __post_init__(self) -> None:
        _check_extra_ids("vocabulary: extra_ids", self.extra_ids)

    @property
    def vocab_size(self) -> int:
        return self._loaded.processor.GetPieceSize()

    @property
    def pad_id(self) -> int:
        """The id that fills rows up; which positions are padding the segment ids say."""
        return self._loaded.special.pad_id

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text; None if the model has none."""
        return self._loaded.special.bos_id

    @property
    def eos_id(self) -> int:
        """The id that ends a text."""
        return self.eos_ids[0]

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a text: the model's own first, then those of generation."""
        return self._loaded.special.eos_ids

    @property
    def unk_id(self) -> int:
        """The id of what has no piece."""
        return self._loaded.special.unk_id

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What stands before every text, such as a BOS."""
        return self._loaded.special.prefix_ids

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How a chat is written; None if no file says."""
        return self._loaded.special.template

    @property
    def fingerprint(self) -> str:
        return self._loaded.fingerprint

    @property
    def path(self) -> str:
        """The model file itself.

        Raises:
            DataError: there is no such file, or the directory holds no SentencePiece model.
        """
        return sentencepiece_models.find_model(self.sentencepiece_model_file)

    def encode(self, text: str) -> list[int]:
        return self._loaded.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        size, ends = self.vocab_size, self.eos_ids
        kept = []
        for token in map(int, ids):
            if token in ends:
                break
            kept.append(token if token < size else self.unk_id)
        return self._loaded.processor.DecodeIds(kept)

    def as_seqio(self) -> Any:
        if self._loaded.special is not special_tokens.T5:
            return json_vocabularies.seqio_vocabulary(self)
        return sentencepiece_models.seqio_vocabulary(self.path, self.extra_ids)

    @functools.cached_property  # kept here: to look the file up takes longer than to encode a text
    def _loaded(self) -> sentencepiece_models.LoadedModel:
        return sentencepiece_models.load_model(self.path, self.extra_ids)

    def __getstate__(self) -> dict[str, Any]:
        """The fields: a copy in another process loads its own model."""
        return {name: value for name, value in vars(self).items() if name != "_loaded"}


@dataclasses.dataclass(frozen=True)
class ByteVocabulary:
    """UTF-8 bytes as ByT5 numbers them: byte b has id b + 3.

    Attributes:
        extra_ids: ids reserved after the 259 used ones (ByT5 has 125 in its 384 rows).
    """

    extra_ids: int = 0

    pad_id: ClassVar[int] = PAD_ID
    eos_id: ClassVar[int] = EOS_ID
    unk_id: ClassVar[int] = UNK_ID

    def __post_init__(self) -> None:
        _check_extra_ids("vocabulary: extra_ids", self.extra_ids)

    @property
    def vocab_size(self) -> int:
        return 256 + 3 + self.extra_ids

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"bytes extra_ids={self.extra_ids}".encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int]) -> str:
        kept = bytearray()
        for token in map(int, ids):
            if token == EOS_ID:
                break
            if 3 <= token < 256 + 3:
                kept.append(token - 3)
        return kept.decode("utf-8", errors="ignore")

    def as_seqio(self) -> Any:
        import seqio

        return seqio.ByteVocabulary(self.extra_ids)


def bundled_vocabulary() -> SentencePieceVocabulary:
    """The small SentencePiece model that is shipped with the bundled suite."""
    return SentencePieceVocabulary(str(Path(__file__).parent / "bundled" / "suite" / "vocab.model"))


def writing_vocabulary() -> SentencePieceVocabulary:
    """The small SentencePiece model that is shipped with the writing suite: 1,024 pieces."""
    bundled = Path(__file__).parent / "writing" / "bundled"
    return SentencePieceVocabulary(str(bundled / "vocab.model"))


def harbour_vocabulary() -> SentencePieceVocabulary:
    """The small SentencePiece model of the bundled domain of self-specialization: 1,024 pieces."""
    bundled = Path(__file__).parent / "specialization" / "bundled"
    return SentencePieceVocabulary(str(bundled / "vocab.model"))


def t5_vocabulary(path: str | None = None) -> SentencePieceVocabulary:
    """T5's own vocabulary: 32,000 pieces and 100 extra ids.

    Args:
        path: where its model is: a file, or a directory such as a downloaded Hugging Face model.
            None is the public bucket.
    """
    return SentencePieceVocabulary(path or T5_VOCABULARY, T5_EXTRA_IDS)


def mt5_vocabulary(path: str | None = None) -> SentencePieceVocabulary:
    """mT5's vocabulary: 250,100 pieces, of which the last 100 are its extra ids.

    Args:
        path: as of `t5_vocabulary`.
    """
    return SentencePieceVocabulary(path or MT5_VOCABULARY, T5_EXTRA_IDS)


def byt5_vocabulary() -> ByteVocabulary:
    """ByT5's 256 bytes, with the extra ids that fill its 384 rows."""
    return ByteVocabulary(BYT5_EXTRA_IDS)


def open_vocabulary(path: str, extra_ids: int | None = None) -> Vocabulary:
    """The vocabulary that a file or directory holds; a model is read when it is first used.

    Args:
        path: a SentencePiece model file; or a directory: of Hugging Face, of `save_tokenizer`, a
            checkpoint, or a MODEL_DIR.
        extra_ids: sentinels to have. None: as many as the directory's tokenizer_config.json says;
            where it says nothing, what Transformers takes: 100 for T5, 125 for ByT5. A file of its
            own has those that are in it.

    Raises:
        DataError: a directory holds no vocabulary; names what was looked for.
    """
    directory = sentencepiece_models.find_directory(path)
    if directory is None:
        return SentencePieceVocabulary(path, extra_ids or 0)
    config = tokenizer_files.read_json(directory / tokenizer_files.CONFIG)
    # `ByT5Tokenizer`, or `ByT5TokenizerFast` as some name it.
    is_bytes = str(config.get("tokenizer_class", "")).startswith("ByT5")
    if is_bytes:
        return ByteVocabulary(_count_extra_ids(config, BYT5_EXTRA_IDS, directory, extra_ids))
    model = epath.Path(sentencepiece_models.find_model(str(directory)))
    in_json = directory / sentencepiece_models.TOKENIZER_JSON
    is_llama = model.name == sentencepiece_models.LLAMA_MODEL
    if model == in_json or (is_llama and files.is_file(in_json)):
        # What was added to a tokenizer after its training is in the JSON file.
        if not json_vocabularies.is_unigram(str(in_json)):
            return JsonVocabulary(str(in_json))
    default = 0 if is_llama else T5_EXTRA_IDS
    count = _count_extra_ids(config, default, directory, extra_ids)
    return SentencePieceVocabulary(str(model), count)


def _check_extra_ids(field: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= _MAX_EXTRA_IDS:
        shown = quoted(value) if isinstance(value, str) else value
        raise DataError(f"{field}={shown}; allowed: an integer from 0 to {_MAX_EXTRA_IDS}")


def _count_extra_ids(
    config: dict[str, Any], default: int, directory: epath.Path, given: int | None
) -> int:
    """How many sentinels: as many as are given, else as the config says."""
    if given is not None:
        return given
    # Transformers lists the names where it has saved a tokenizer, under keys that have changed, and
    # its own `extra_ids` may then be 0.
    names = set(re.findall(r"<extra_id_\d+>", json.dumps(config)))
    if names:
        return len(names)
    extra_ids = config.get("extra_ids", default)
    _check_extra_ids(f"vocabulary: {directory / tokenizer_files.CONFIG}: extra_ids", extra_ids)
    return extra_ids


def save_tokenizer(vocabulary: Vocabulary, directory: str) -> None:
    """Writes a vocabulary so that `open_vocabulary` and Transformers' AutoTokenizer read it.

    Args:
        vocabulary: one of this module's.
        directory: local or remote; is created, and files that are there are replaced.
    """
    folder = files.path(directory)
    for name, content in _tokenizer_files(vocabulary).items():
        files.write_bytes(folder / name, content)


def _tokenizer_files(vocabulary: Vocabulary) -> dict[str, bytes]:
    """Contents by file name; the config last: it makes the rest a tokenizer."""
    if isinstance(vocabulary, JsonVocabulary):
        return json_vocabularies.files_of(vocabulary)
    if isinstance(vocabulary, ByteVocabulary):
        config = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": vocabulary.extra_ids}
        return _config_file(config, ["<pad>", "</s>", "<unk>"])
    assert isinstance(vocabulary, SentencePieceVocabulary)
    loaded = sentencepiece_models.load_model(vocabulary.path, vocabulary.extra_ids)
    model = loaded.proto.SerializeToString(deterministic=True)
    if loaded.special is not special_tokens.T5:
        beside = tokenizer_files.read_files(epath.Path(vocabulary.path).parent)
        stated = {} if tokenizer_files.CONFIG in beside else _llama_config(loaded)
        return {sentencepiece_models.LLAMA_MODEL: model, **beside, **stated}
    contents = {"spiece.model": model}
    fast = tokenizer_json.from_sentencepiece(loaded.proto, loaded.added_ids)
    if fast:
        text = json.dumps(fast, ensure_ascii=False)
        contents[sentencepiece_models.TOKENIZER_JSON] = text.encode()
    tokenizer_class = "PreTrainedTokenizerFast" if fast else "T5Tokenizer"
    config = {"tokenizer_class": tokenizer_class, "extra_ids": loaded.added_ids}
    names = [piece.piece for piece in loaded.proto.pieces[: len(_SPECIAL_TOKENS)]]
    return contents | _config_file(config, names)


def _config_file(config: dict[str, Any], names: Sequence[str]) -> dict[str, bytes]:
    """tokenizer_config.json, with the texts of ids 0, 1 and 2."""
    return _json_file(config | dict(zip(_SPECIAL_TOKENS, names, strict=True)))


def _llama_config(loaded: sentencepiece_models.LoadedModel) -> dict[str, bytes]:
    """The tokenizer_config.json of a model that has none."""
    special, pieces = loaded.special, loaded.proto.pieces
    config: dict[str, Any] = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": bool(special.prefix_ids),
        "add_eos_token": False,
        "legacy": special.adds_inner_space,
        "eos_token": pieces[special.eos_ids[0]].piece,
        "unk_token": pieces[special.unk_id].piece,
    }
    if special.bos_id is not None:
        config["bos_token"] = pieces[special.bos_id].piece
    return _json_file(config)


def _json_file(config: dict[str, Any]) -> dict[str, bytes]:
    return {tokenizer_files.CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
