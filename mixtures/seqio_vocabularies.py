"""A vocabulary of ours as a `seqio.Vocabulary`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from mixtures.chat_templates import ChatTemplate


class EagerVocabulary(seqio.Vocabulary):
    """Any `mixtures.vocabularies.Vocabulary`; TensorFlow calls back into Python for each text."""

    def __init__(self, vocabulary: Any):
        super().__init__(extra_ids=0)
        self._vocabulary = vocabulary

    @property
    def eos_id(self) -> int:
        return self._vocabulary.eos_id

    @property
    def pad_id(self) -> int:
        return self._vocabulary.pad_id

    @property
    def bos_id(self) -> int | None:
        return self._vocabulary.bos_id

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text."""
        return tuple(getattr(self._vocabulary, "prefix_ids", ()))

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How a chat is written."""
        found: ChatTemplate | None = getattr(self._vocabulary, "chat_template", None)
        return found

    @property
    def unk_id(self) -> int:
        return self._vocabulary.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self._vocabulary.vocab_size

    def _encode(self, s: str) -> list[int]:
        return self._vocabulary.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self._vocabulary.decode(ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self._vocabulary.decode(ids)  # SeqIO's replaces ids and cuts at one EOS

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: Any) -> np.ndarray:
            # bytes in a graph, an array of no dimension outside of one
            content = np.asarray(text, object).item()
            return np.array(self._vocabulary.encode(content.decode("utf-8")), np.int32)

        ids = tf.numpy_function(encode, [tf.convert_to_tensor(s)], tf.int32, stateful=False)
        return tf.ensure_shape(ids, [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(tokens: Any) -> bytes:
            return self._vocabulary.decode(tokens).encode("utf-8")

        return tf.numpy_function(decode, [ids], tf.string, stateful=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EagerVocabulary) and (
            other._vocabulary.fingerprint == self._vocabulary.fingerprint
        )

    def __hash__(self) -> int:
        return hash(self._vocabulary.fingerprint)
