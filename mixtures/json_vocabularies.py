"""Vocabularies of a `tokenizer.json` that is not a SentencePiece model, through `tokenizers`.

So LLaMA 3, MPT, Falcon and SmolLM2 keep theirs: byte-level BPE. Word pieces and lists of words are
read as well. (Those of the T5 family are read as the SentencePiece models they were made from,
because `tokenizers` breaks ties between equally good splits in another way.)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from mixtures import files
from mixtures.chat_templates import ChatTemplate
from mixtures.errors import DataError
from mixtures.tokenizer_files import Neighbours, read_files, read_neighbours


@dataclasses.dataclass(frozen=True)
class JsonVocabulary:
    """A `tokenizer.json`, loaded when it is first used.

    Attributes:
        path: the file. Its neighbours (see `tokenizer_files`) say which ids begin, end and pad a
            text, and how a chat is written.
    """

    path: str

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self._loaded.tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text; None if the tokenizer has none."""
        return self._loaded.special_id("bos_token")

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a text: the tokenizer's own first, then those of generation."""
        return self._loaded.eos_ids

    @property
    def eos_id(self) -> int:
        """The id that ends a text."""
        return self.eos_ids[0]

    @property
    def pad_id(self) -> int:
        """The id that fills rows up; which positions are padding the segment ids say."""
        found = self._loaded.special_id("pad_token")
        return 0 if found is None else found

    @property
    def unk_id(self) -> int:
        """The id of what has no piece; -1 where every byte has one."""
        found = self._loaded.special_id("unk_token")
        return -1 if found is None else found

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text, such as a BOS."""
        return self._loaded.prefix

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How a chat is written; None if no file says."""
        return self._loaded.beside.template

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the files that determine ids and chats."""
        return self._loaded.fingerprint

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without prefix and suffix."""
        return self._loaded.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids` up to the first that ends a text."""
        kept = []
        for token in map(int, ids):
            if token in self.eos_ids:
                break
            kept.append(token)
        return self._loaded.tokenizer.decode(kept)

    def spell(self, ids: Iterable[int]) -> str:
        """Text of all `ids`, special tokens written out; see `spelling.spell`."""
        return self._loaded.tokenizer.decode([*map(int, ids)], skip_special_tokens=False)

    def as_seqio(self) -> Any:
        """The `seqio.Vocabulary` that gives the same ids."""
        return seqio_vocabulary(self)

    @property
    def _loaded(self) -> _Loaded:
        return _load(self.path)


def is_unigram(path: str) -> bool:
    """Whether a `tokenizer.json` holds a unigram model, such as T5's, or cannot be read at all."""
    try:
        # Not all files name their kind. Unigrams list their pieces, all others number them.
        return isinstance(json.loads(files.read_bytes(path))["model"]["vocab"], list)
    except (ValueError, LookupError, TypeError, RecursionError):
        return True


def files_of(vocabulary: JsonVocabulary) -> dict[str, bytes]:
    """The files of a vocabulary by their names: what to write to have it elsewhere."""
    path = epath.Path(vocabulary.path)
    return {path.name: files.read_bytes(path), **read_files(path.parent)}


@dataclasses.dataclass(frozen=True)
class _Loaded:
    tokenizer: Any
    beside: Neighbours
    eos_ids: tuple[int, ...]
    fingerprint: str

    def special_id(self, name: str) -> int | None:
        text = self.beside.token(name)
        return None if text is None else self.tokenizer.token_to_id(text)

    @functools.cached_property
    def prefix(self) -> tuple[int, ...]:
        bare, full = next(filter(all, map(self._encode_twice, self._probes())), ([], []))
        start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return tuple(full[:start])

    def _encode_twice(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of a text without and with what stands around it."""
        encode = self.tokenizer.encode
        return encode(text, add_special_tokens=False).ids, encode(text).ids

    def _probes(self) -> Iterator[str]:
        """Texts of which one has ids: a letter that vocabularies may lack, then every piece."""
        yield "a"
        _, around = self._encode_twice("")
        for piece in range(self.tokenizer.get_vocab_size()):
            if piece not in around:
                yield self.tokenizer.decode([piece])


@functools.lru_cache(maxsize=8)
def _load(path: str) -> _Loaded:
    import tokenizers

    content = files.read_bytes(path)
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # `tokenizers` raises nothing more special
        reason = str(error).replace("\n", " ")
        raise DataError(f"vocabulary: {path} is not a tokenizer.json ({reason})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    loaded = _Loaded(tokenizer, read_neighbours(epath.Path(path).parent), (), "")
    own = loaded.special_id("eos_token")
    eos_ids = tuple(dict.fromkeys((*([] if own is None else [own]), *loaded.beside.eos_ids)))
    if not eos_ids:
        raise DataError(
            f"vocabulary: {path}: no token ends a text; allowed: an eos_token of its vocabulary in "
            "tokenizer_config.json, or eos_token_id in generation_config.json or config.json"
        )
    return _Loaded(tokenizer, loaded.beside, eos_ids, _digest(content, loaded.beside, eos_ids))


def _digest(content: bytes, beside: Neighbours, eos_ids: tuple[int, ...]) -> str:
    """Of all that determines ids and chats; as it always was where tokenizer_config.json has it."""
    known = content + repr((sorted(beside.config.items()), eos_ids)).encode()
    template = beside.template
    if template is not None and beside.config.get("chat_template") != template.source:
        known += template.source.encode()
    return hashlib.sha256(known).hexdigest()


@functools.lru_cache(maxsize=8)
def seqio_vocabulary(vocabulary: Any) -> Any:
    """One object a vocabulary, as SeqIO compares those of a mixture's tasks."""
    from mixtures.seqio_vocabularies import EagerVocabulary

    return EagerVocabulary(vocabulary)
