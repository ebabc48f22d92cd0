"""Vocabularies: text to token ids and back, without TensorFlow.

The ids are those of SeqIO's vocabularies of the same names, so that tokens made here and tokens
made by a SeqIO pipeline (`as_seqio`) are the same. Reserved ids: 0 padding, 1 end of sequence,
2 unknown.

A SentencePiece model is named by a path, which may be

* a `.model` file on this machine,
* a directory that holds one (`spiece.model` as Hugging Face saves T5's tokenizer,
  `sentencepiece.model`, `vocab.model` or `tokenizer.model`),
* a remote file such as T5's public `T5_VOCABULARY`; it is fetched when the first token is asked
  for, not before.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from mixtures.errors import DataError

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2

T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
T5_EXTRA_IDS = 100

_DIRECTORY_NAMES = ("spiece.model", "sentencepiece.model", "vocab.model", "tokenizer.model")


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
        extra_ids: sentinels `<extra_id_0>`, ... added at the end, the first one last (T5 has 100).
    """

    sentencepiece_model_file: str
    extra_ids: int = 0

    pad_id: ClassVar[int] = PAD_ID
    eos_id: ClassVar[int] = EOS_ID
    unk_id: ClassVar[int] = UNK_ID

    def __post_init__(self) -> None:
        if self.extra_ids < 0:
            raise DataError(f"vocabulary: extra_ids={self.extra_ids}; allowed: 0 or more")

    @property
    def vocab_size(self) -> int:
        return self._processor.GetPieceSize()

    @property
    def fingerprint(self) -> str:
        return _load(self.path, self.extra_ids)[1]

    @property
    def path(self) -> str:
        """The model file itself.

        Raises:
            DataError: there is no such file, or the directory holds no SentencePiece model.
        """
        return _model_file(self.sentencepiece_model_file)

    def encode(self, text: str) -> list[int]:
        return self._processor.EncodeAsIds(text)

    def decode(self, ids: Iterable[int]) -> str:
        size = self.vocab_size
        kept = []
        for token in map(int, ids):
            if token == EOS_ID:
                break
            kept.append(token if token < size else UNK_ID)
        return self._processor.DecodeIds(kept)

    def as_seqio(self) -> Any:
        _load(self.path, self.extra_ids)  # reports a missing file in our words
        return _seqio_sentencepiece(self.path, self.extra_ids)

    @property
    def _processor(self) -> Any:
        return _load(self.path, self.extra_ids)[0]


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


def t5_vocabulary(path: str = T5_VOCABULARY) -> SentencePieceVocabulary:
    """T5's own vocabulary: 32,000 pieces and 100 extra ids.

    Args:
        path: where its model is: the public bucket, a local copy, or a directory in which
            Hugging Face saved T5's tokenizer.
    """
    return SentencePieceVocabulary(path, T5_EXTRA_IDS)


def _model_file(path: str) -> str:
    """The model file that `path` names; remote paths are returned unchecked."""
    if "://" in path:
        return path
    local = Path(path).expanduser()
    if local.is_dir():
        for name in _DIRECTORY_NAMES:
            if (local / name).is_file():
                return str(local / name)
        raise DataError(
            f"vocabulary: no SentencePiece model in directory {path}; "
            f"looked for {', '.join(_DIRECTORY_NAMES)}"
        )
    if not local.is_file():
        raise DataError(f"vocabulary: file not found: {path}; give a SentencePiece .model file")
    return str(local)


def _read_bytes(path: str) -> bytes:
    """Bytes of a local or remote file.

    Raises:
        DataError: a remote file that cannot be reached.
    """
    if "://" not in path:
        return Path(path).read_bytes()
    # Only TensorFlow's file layer knows buckets here, and most users never ask for one.
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except (tf.errors.OpError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"vocabulary: cannot read {path} ({reason}); copy the file here and give its local path"
        ) from None


@functools.lru_cache(maxsize=8)
def _load(path: str, extra_ids: int) -> tuple[Any, str]:
    """The SentencePiece processor of a model file with its extra ids, and the fingerprint."""
    import sentencepiece
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(_read_bytes(path))
    except DecodeError:
        raise DataError(f"vocabulary: {path} is not a SentencePiece model") from None
    for i in reversed(range(extra_ids)):  # descending, as span corruption numbers its sentinels
        model.pieces.add(
            piece=f"▁<extra_id_{i}>",
            score=0.0,
            type=sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED,
        )
    serialized = model.SerializeToString(deterministic=True)
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(serialized)
    ids = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if ids != (PAD_ID, EOS_ID, UNK_ID):
        raise DataError(
            f"vocabulary: {path} has pad, eos, unk ids {ids}; "
            f"allowed: {(PAD_ID, EOS_ID, UNK_ID)}, as T5's vocabularies have"
        )
    return processor, hashlib.sha256(serialized).hexdigest()


@functools.lru_cache(maxsize=8)
def _seqio_sentencepiece(path: str, extra_ids: int) -> Any:
    """One object a model: SeqIO compares vocabularies of a mixture's tasks, and loads each once."""
    import seqio

    return seqio.SentencePieceVocabulary(path, extra_ids)
