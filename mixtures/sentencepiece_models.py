"""SentencePiece models: where a path leads, what is read there, and the processor made of it."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import hashlib
import json
import math
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from etils import epath

from mixtures import files, special_tokens, tokenizer_json
from mixtures.errors import DataError, quoted
from mixtures.special_tokens import SpecialTokens

LLAMA_MODEL = "tokenizer.model"
MODEL_NAMES = ("spiece.model", "sentencepiece.model", "vocab.model", LLAMA_MODEL)
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_DIR = "tokenizer"  # in a checkpoint of ours, and in a MODEL_DIR

# Most paths come from this macro of the model files.
ALLOWED_PATHS = (
    "allowed as VOCABULARY_PATH: a SentencePiece .model file, a tokenizer.json, or a directory "
    "that has one, such as a Hugging Face directory or a MODEL_DIR"
)

_FIELD = "vocabulary (VOCABULARY_PATH)"
_FILE_SUFFIXES = (".model", ".json")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        processor: `sentencepiece.SentencePieceProcessor`, extra ids included.
        proto: the model as its file has it, without the extra ids that were added.
        added_ids: extra ids that the file did not have.
        special: which ids begin, end and pad a text.
        fingerprint: SHA-256 (hex) of what determines the ids.
    """

    processor: Any
    proto: Any
    added_ids: int
    special: SpecialTokens
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; the texts of special tokens stand for these."""
        if not self.special.by_text:
            return self.processor.EncodeAsIds(text)
        first, *rest = self._pattern.split(text)
        ids = self.processor.EncodeAsIds(first)
        for token, behind in zip(rest[::2], rest[1::2], strict=True):
            ids.append(self.special.by_text[token])
            adds_space = self.special.adds_inner_space and not behind.startswith((" ", "▁"))
            ids += (self.processor if adds_space else self._inner).EncodeAsIds(behind)
        return ids

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.special.by_text, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @functools.cached_property
    def _inner(self) -> Any:
        """Tokenises what stands behind a special token: no space is put before the text."""
        from sentencepiece import sentencepiece_model_pb2

        serialized = self.processor.serialized_model_proto()
        model = sentencepiece_model_pb2.ModelProto.FromString(serialized)
        model.normalizer_spec.add_dummy_prefix = False
        return _process(model, "")[0]


def find_model(path: str) -> str:
    """The file that `path` means; a remote path that names a file is returned unchecked.

    Args:
        path: a model file, a `tokenizer.json`, or a directory that has one or whose `tokenizer/`
            has one.

    Raises:
        DataError: there is no such file, or the directory holds no model.
    """
    directory = find_directory(path)
    if directory is not None:
        for name in (*MODEL_NAMES, TOKENIZER_JSON):
            if files.is_file(directory / name):
                return str(directory / name)
        raise DataError(
            f"vocabulary: no SentencePiece model in directory {path}; "
            f"looked for {', '.join((*MODEL_NAMES, TOKENIZER_JSON))}; {ALLOWED_PATHS}"
        )
    if "://" in path:
        return path
    local = files.path(path, _FIELD)
    if not files.is_file(local):
        raise DataError(f"vocabulary: file not found: {path}; {ALLOWED_PATHS}")
    return str(local)


def find_directory(path: str) -> epath.Path | None:
    """The directory whose files describe the tokenizer at `path`; None if it is not a directory.

    A remote path that ends as a file does is not looked up: that may need a network.
    """
    if "://" in path and path.endswith(_FILE_SUFFIXES):
        return None
    try:
        directory = files.path(path, _FIELD)
        if not files.is_dir(directory):
            return None
        inner = directory / TOKENIZER_DIR
        return inner if files.is_dir(inner) else directory
    except OSError as error:
        raise _unreachable(path, error) from None


def read_bytes(path: str) -> bytes:
    """The bytes of a local or remote file.

    Raises:
        DataError: a remote file that cannot be reached.
    """
    try:
        return files.read_bytes(files.path(path, _FIELD))
    except OSError as error:
        raise _unreachable(path, error) from None


def _unreachable(path: str, error: OSError) -> DataError:
    return DataError(
        f"vocabulary: cannot read {path} ({error.strerror}); "
        "copy the file here and give its local path as VOCABULARY_PATH"
    )


@functools.lru_cache(maxsize=8)
def load_model(path: str, extra_ids: int) -> LoadedModel:
    """Reads a model file and sees to it that it has the extra ids.

    Args:
        path: what `find_model` returned.
        extra_ids: how many sentinels to have. Where the file has them already (as mT5's has), none
            are added.

    Raises:
        DataError: the file cannot be read, is not a model, or has no token that ends a text.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = _read_proto(path)
    model = sentencepiece_model_pb2.ModelProto()
    model.CopyFrom(proto)
    present = {piece.piece for piece in model.pieces}
    # Descending, as span corruption numbers its sentinels: <extra_id_0> is the last id.
    missing = [
        name for i in reversed(range(extra_ids)) if (name := f"▁<extra_id_{i}>") not in present
    ]
    for name in missing:
        model.pieces.add(piece=name, score=0.0, type=model.SentencePiece.USER_DEFINED)
    processor, serialized = _process(model, path)
    if special_tokens.is_t5(processor):
        digest = hashlib.sha256(serialized).hexdigest()
        return LoadedModel(processor, proto, len(missing), special_tokens.T5, digest)
    special = special_tokens.read(model, processor, path)
    if len(model.pieces) > processor.GetPieceSize():
        processor, serialized = _process(model, path)
    digest = hashlib.sha256(serialized + repr(special).encode()).hexdigest()
    return LoadedModel(processor, proto, len(missing), special, digest)


def _process(model: Any, path: str) -> tuple[Any, bytes]:
    """The processor of a `ModelProto`, and the model's bytes."""
    import sentencepiece

    serialized = model.SerializeToString(deterministic=True)
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(serialized)
    except RuntimeError as error:  # pieces that occur twice, a damaged normalizer, no unknown piece
        raise DataError(
            f"vocabulary: {path} is a damaged SentencePiece model ({error}); {ALLOWED_PATHS}"
        ) from None
    return processor, serialized


def _read_proto(path: str) -> Any:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    content = read_bytes(path)
    if not content:
        raise DataError(f"vocabulary: {path} is empty; {ALLOWED_PATHS}")
    if path.endswith(".json"):
        try:
            return _checked(tokenizer_json.to_sentencepiece(json.loads(content)), path)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DataError(
                f"vocabulary: {path} is not a T5 tokenizer ({error}); "
                "allowed: a Unigram model with SentencePiece's normalizer"
            ) from None
    try:
        return _checked(sentencepiece_model_pb2.ModelProto.FromString(content), path)
    except DecodeError:
        raise DataError(
            f"vocabulary: {path} is not a SentencePiece model; {ALLOWED_PATHS}"
        ) from None


def _checked(proto: Any, path: str) -> Any:
    """The model, unless a score in it is not a number: SentencePiece would cut texts at random."""
    for index, piece in enumerate(proto.pieces):
        if not math.isfinite(piece.score):
            raise DataError(
                f"vocabulary: {path}: piece {index} ({quoted(piece.piece)}) has score "
                f"{piece.score}; allowed: finite numbers"
            )
    return proto


@functools.lru_cache(maxsize=8)
def seqio_vocabulary(path: str, extra_ids: int) -> Any:
    """One object a model: SeqIO compares vocabularies of a mixture's tasks, and loads each once."""
    import seqio

    loaded = load_model(path, extra_ids)
    if path.endswith(".json"):  # SeqIO reads model files only
        folder = tempfile.mkdtemp(prefix="t5x_ext-vocabulary-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = Path(folder) / MODEL_NAMES[0]
        file.write_bytes(loaded.proto.SerializeToString(deterministic=True))
        path = str(file)
    return seqio.SentencePieceVocabulary(path, loaded.added_ids)
