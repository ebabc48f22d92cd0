"""How a model takes examples in: T5X's feature converters, on NumPy arrays.

An encoder-decoder row has two sides, which are packed together; a decoder-only row has one, the
prompt with the response behind it:

    example                 prompt p q r     response x y </s>
    encoder-decoder         encoder  p q r   decoder in  0 x y     decoder out  x y </s>
    decoder-only            in       p q r x y       out          q r x y </s>
                                                     loss weight  0 0 1 1 1

Every batch says by segment ids and loss weights what is padding, never by a token's value: some
vocabularies have a piece with id 0.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mixtures.joining import prompt_start, response_tokens
from t5x_ext.data.packing import Layout

Batch = dict[str, np.ndarray]
Lengths = Mapping[str, int]

_NO_TOKENS = np.zeros(0, np.int32)


class Features(abc.ABC):
    """What is packed, and what a batch holds.

    Attributes:
        joined: whether a prompt and its target are one text to the model.
        segment_ids: the features that say what is padding.
    """

    joined: ClassVar[bool] = False
    segment_ids: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def sides(
        self, input_lengths: np.ndarray, target_lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions that examples take up on the two sides that packing fills together.

        Args:
            input_lengths: int [examples], tokens of prompts.
            target_lengths: int [examples], tokens of targets.

        Returns:
            int [examples] each. A model with one side gives it twice.
        """

    @abc.abstractmethod
    def limits(self, lengths: Lengths) -> Lengths:
        """Positions that a row holds on each side, at most: {'inputs': , 'targets': } -> same.

        Args:
            lengths: TASK_FEATURE_LENGTHS, tokens of a prompt and of a target.
        """

    def row_lengths(self, first: int, second: int) -> Lengths:
        """Lengths of rows, given what each of the two sides needs."""
        return {"inputs": first, "targets": second}

    @abc.abstractmethod
    def build(
        self,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        layout: Layout,
        row_lengths: Lengths,
    ) -> Batch:
        """Writes tokens into rows.

        Args:
            inputs: int32 tokens of each entry's prompt.
            targets: int32 tokens of each entry's target.
            layout: places in B = layout.num_rows rows, of the lengths that `sides` gave.
            row_lengths: positions of a row on each side, as `limits` has them.

        Returns:
            T5X's features, [B, L]. decoder_loss_weights is float32, the others are int32;
            *_segment_ids count from 1 in every row and *_positions from 0 in every segment.
        """

    @abc.abstractmethod
    def prompt_tokens(self, vocabulary: Any, text: str) -> np.ndarray:
        """A prompt as the model is given it, int32."""

    def target_tokens(self, vocabulary: Any, text: str, prompt: str = "") -> np.ndarray:
        """A target with the end of sequence, int32; `prompt` is what it answers, as text."""
        return np.array([*vocabulary.encode(text), vocabulary.eos_id], np.int32)

    def num_positions(self, row_lengths: Lengths) -> int:
        """Positions of a row, all sides together."""
        return sum(row_lengths.values())

    @property
    def of_targets(self) -> Features:
        """The same with loss weights on targets alone, whatever the loss counts."""
        return self


class EncoderDecoderFeatures(Features):
    """T5X's `EncDecFeatureConverter`: decoder inputs are the targets behind a token 0."""

    segment_ids: ClassVar[tuple[str, ...]] = ("encoder_segment_ids", "decoder_segment_ids")

    def sides(
        self, input_lengths: np.ndarray, target_lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        # An empty prompt takes up one position; see `build`.
        return np.maximum(input_lengths, 1), target_lengths

    def limits(self, lengths: Lengths) -> Lengths:
        return {"inputs": int(lengths["inputs"]), "targets": int(lengths["targets"])}

    def build(
        self,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        layout: Layout,
        row_lengths: Lengths,
    ) -> Batch:
        # Targets without a prompt would find no key of their segment in the row, and attention
        # would average over other examples. One token gives what a row of padding gives.
        one_padding = np.zeros(1, np.int32)
        prompts = [tokens if len(tokens) else one_padding for tokens in inputs]
        encoder = _Side("encoder", prompts, layout, layout.encoder_starts, row_lengths["inputs"])
        decoder = _Side("decoder", targets, layout, layout.decoder_starts, row_lengths["targets"])
        shifted = np.where(decoder.positions == 0, 0, np.roll(decoder.tokens, 1))
        return {
            "encoder_input_tokens": encoder.rows(encoder.tokens),
            **encoder.segments_and_positions(),
            "decoder_input_tokens": decoder.rows(shifted),
            "decoder_target_tokens": decoder.rows(decoder.tokens),
            "decoder_loss_weights": decoder.rows(np.ones(len(shifted), np.float32)),
            **decoder.segments_and_positions(),
        }

    def prompt_tokens(self, vocabulary: Any, text: str) -> np.ndarray:
        return np.array([*vocabulary.encode(text), vocabulary.eos_id], np.int32)


@dataclasses.dataclass(frozen=True)
class DecoderOnlyFeatures(Features):
    """T5X's `PrefixLMFeatureConverter`, without its token 0 in front of every row.

    The model predicts each token from those before it, and so none from nothing: the first token of
    a prompt is only read. A vocabulary with a BOS puts that there, as Hugging Face does; T5X's own
    decoder-only models are given a BOS of id 0.

    Attributes:
        loss_on_prompt: whether the prompt's tokens count in the loss as the response's do.
        bidirectional_prompt: adds decoder_causal_attention, 1 on the prompt, whose tokens then see
            each other whatever their order.
    """

    joined: ClassVar[bool] = True
    segment_ids: ClassVar[tuple[str, ...]] = ("decoder_segment_ids",)

    loss_on_prompt: bool = False
    bidirectional_prompt: bool = False

    def sides(
        self, input_lengths: np.ndarray, target_lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        # One less than tokens: the last is never an input, the first never a target.
        positions = np.maximum(input_lengths + target_lengths, 2) - 1
        return positions, positions

    def limits(self, lengths: Lengths) -> Lengths:
        whole = int(lengths["inputs"]) + int(lengths["targets"])
        return {"inputs": whole, "targets": whole}

    def build(
        self,
        inputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        layout: Layout,
        row_lengths: Lengths,
    ) -> Batch:
        # A row of one token predicts nothing; its position stays, so that places are as planned.
        joined = [np.concatenate(pair) for pair in zip(inputs, targets, strict=True)]
        joined = [tokens if len(tokens) > 1 else np.resize(tokens, 2) for tokens in joined]
        read = [tokens[:-1] for tokens in joined]
        side = _Side("decoder", read, layout, layout.decoder_starts, row_lengths["targets"])
        predicted = np.concatenate([_NO_TOKENS, *(tokens[1:] for tokens in joined)])
        prompt_lengths = np.array([len(tokens) for tokens in inputs], np.int64)
        prompt_lengths = np.repeat(prompt_lengths, side.counts)
        has_two = [len(p) + len(t) > 1 for p, t in zip(inputs, targets, strict=True)]
        is_real = np.repeat(np.array(has_two, bool), side.counts)
        counts = is_real & (self.loss_on_prompt | (side.positions + 1 >= prompt_lengths))
        batch = {
            "decoder_input_tokens": side.rows(side.tokens),
            "decoder_target_tokens": side.rows(predicted),
            "decoder_loss_weights": side.rows(counts.astype(np.float32)),
            **side.segments_and_positions(),
        }
        if self.bidirectional_prompt:
            in_prompt = (side.positions < prompt_lengths).astype(np.int32)
            batch["decoder_causal_attention"] = side.rows(in_prompt)
        return batch

    def row_lengths(self, first: int, second: int) -> Lengths:
        return {"inputs": first, "targets": first}

    def prompt_tokens(self, vocabulary: Any, text: str) -> np.ndarray:
        return np.array([*prompt_start(vocabulary, text), *vocabulary.encode(text)], np.int32)

    def target_tokens(self, vocabulary: Any, text: str, prompt: str = "") -> np.ndarray:
        tokens = response_tokens(vocabulary, prompt, text)
        return np.array([*tokens, vocabulary.eos_id], np.int32)

    def num_positions(self, row_lengths: Lengths) -> int:
        return row_lengths["targets"]

    @property
    def of_targets(self) -> Features:
        return dataclasses.replace(self, loss_on_prompt=False)


class _Side:
    """The tokens of one side, one after another, and where each goes.

    Attributes:
        counts: int64 [entries], tokens of each.
        tokens: int32 [tokens], of all entries.
        positions: int64 [tokens], from 0 in every entry.
    """

    def __init__(
        self,
        name: str,
        sequences: Sequence[np.ndarray],
        layout: Layout,
        starts: np.ndarray,
        length: int,
    ):
        self._name = name
        self._shape = layout.num_rows, length
        self._segments = layout.segments
        self.counts = np.array([len(tokens) for tokens in sequences], np.int64)
        self.tokens = np.concatenate([_NO_TOKENS, *sequences])
        ends = np.cumsum(self.counts)
        self.positions = np.arange(len(self.tokens)) - np.repeat(ends - self.counts, self.counts)
        # One flat index per token writes all rows of a feature at once.
        first = np.asarray(layout.rows, np.int64) * length + np.asarray(starts, np.int64)
        self._places = np.repeat(first, self.counts) + self.positions

    def rows(self, values: np.ndarray) -> np.ndarray:
        """[tokens] -> [B, L], 0 elsewhere; float32 stays, the rest becomes int32."""
        dtype = np.float32 if values.dtype == np.float32 else np.int32
        array = np.zeros(self._shape[0] * self._shape[1], dtype)
        array[self._places] = values
        return array.reshape(self._shape)

    def segments_and_positions(self) -> Batch:
        """The features that all sides have."""
        return {
            f"{self._name}_segment_ids": self.rows(np.repeat(self._segments, self.counts)),
            f"{self._name}_positions": self.rows(self.positions),
        }
