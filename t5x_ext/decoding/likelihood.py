"""How likely a model finds given targets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.predict import to_answer, to_rows
from t5x_ext.decoding.prompts import check_examples
from t5x_ext.decoding.scored_rows import ScoredRows, scored_batches
from t5x_ext.decoding.shared_prefixes import LEAST_ANSWERS, Sharing
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.models import BaseTransformerModel, losses
from t5x_ext.models.adapter_rows import adapter_rows
from t5x_ext.models.generation import Prefixes
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.progress import MinuteNotes, counted


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Log-likelihoods of targets, in length buckets.

    Attributes:
      model: gives the network.
      partitioner: the mesh that parameters already live on.
      batch_size: examples per batch, global; rounded up to what the mesh divides.
      max_input_length: longest prompt in tokens, EOS included.
      share_prefixes: as of `Decoder`, where rows begin alike: two are enough, such as two answers
        to a prompt.
    """

    model: BaseTransformerModel
    partitioner: PjitPartitioner
    batch_size: int
    max_input_length: int
    share_prefixes: bool | None = None

    def log_likelihoods(
        self,
        params: Params,
        examples: Sequence[Example],
        adapters: np.ndarray | None = None,
        progress: MinuteNotes | None = None,
    ) -> np.ndarray:
        """The log-likelihood of each example's first target, EOS included.

        Args:
          params: parameters on the partitioner's mesh.
          examples: prompts and targets.
          adapters: int32 [examples], see `models.adapter_rows`.
          progress: counts the examples.

        Returns:
          float32 [len(examples)], natural logarithm, summed over the target's tokens.
        """
        scores = np.zeros(len(examples), np.float32)
        done = 0
        for places, sums, _ in self._run(params, examples, adapters):
            scores[places] = sums
            done += len(places)
            if progress is not None:
                progress.count(done)
        return scores

    def token_log_probs(
        self, params: Params, examples: Sequence[Example], adapters: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """As `log_likelihoods`, of each token of the target: float32 [tokens] for each example."""
        found: list[Any] = [None] * len(examples)
        for places, _, rows in self._run(params, examples, adapters):
            for place, row in zip(places, rows, strict=True):
                found[place] = row
        return found

    def _run(
        self, params: Params, examples: Sequence[Example], adapters: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """Places in `examples`, and of each the sum over its target and its tokens' scores."""
        for rows in self._batches(examples, adapters):
            count = len(rows.places)
            features = {name: self.partitioner.put_whole(x) for name, x in rows.features.items()}
            found = self._score(params, features, rows.adapters, rows.prefixes, rows.length)
            sums, chosen = (np.asarray(array)[:count] for array in found)
            is_target = rows.features["decoder_loss_weights"][:count] > 0
            kept = [row[own] for row, own in zip(chosen, is_target, strict=True)]
            yield rows.places, sums, kept

    def _batches(
        self, examples: Sequence[Example], adapters: np.ndarray | None
    ) -> Iterator[ScoredRows]:
        batch_size = self.partitioner.round_up_batch(self.batch_size)
        longest = max((len(e.targets[0]) for e in examples if e.targets), default=1)
        lengths = {"inputs": self.max_input_length, "targets": -(-longest // 32) * 32}
        features = self.model.features.of_targets
        if features.joined:  # an encoder reads an empty prompt as one token of padding
            check_examples(examples)
        sharing = Sharing.of(self.model.generator, self.partitioner, self.share_prefixes)
        if sharing is not None:
            sharing = dataclasses.replace(sharing, least_prompts=LEAST_ANSWERS)
        return scored_batches(features, examples, adapters, batch_size, lengths, sharing)

    @classmethod
    def like(cls, decoder: Decoder) -> Scorer:
        """One with the model, mesh and lengths of a decoder."""
        return cls(decoder.model, decoder.partitioner, decoder.batch_size, decoder.max_input_length)

    @functools.cached_property
    def _score(self) -> Any:
        def score(
            params: Params,
            batch: dict[str, jax.Array],
            adapters: jax.Array | None,
            prefixes: Prefixes | None = None,
            length: int | None = None,
        ) -> tuple[jax.Array, jax.Array]:
            with self.partitioner.activate(), adapter_rows(adapters):
                if prefixes is None or length is None:
                    scores = self.model.logits(params, batch)
                else:
                    after = prefixes, batch["decoder_input_tokens"], length
                    scores = self.model.generator.scores_after(params, *after)
            chosen = losses.log_probabilities(scores, batch["decoder_target_tokens"])
            return jnp.sum(chosen * batch["decoder_loss_weights"], axis=-1), chosen

        everywhere = self.partitioner.sharding((None,))
        return jax.jit(score, static_argnums=4, out_shardings=everywhere)


def score_all(scorer: Scorer, params: Params, examples: Sequence[Example]) -> np.ndarray:
    """`log_likelihoods` of a split, which tells every minute how far it is."""
    with MinuteNotes("scoring", len(examples), "rows") as progress:
        return scorer.log_likelihoods(params, examples, progress=progress)


def to_example(prompt: np.ndarray, target: np.ndarray) -> Example:
    """Tokens of a prompt and of its target, as an example."""
    return Example("", "", "", prompt, (target,), "", (), False)


def score_targets(scorer: Scorer, params: Params, examples: Sequence[Example]) -> list[Prediction]:
    """Rows with each first reference as the prediction and score['log_likelihood']."""
    scores = score_all(scorer, params, examples)
    return [
        dataclasses.replace(
            row, prediction=row.references[0], score={"log_likelihood": float(score)}
        )
        for row, score in zip(to_rows(examples), scores, strict=True)
    ]


def predict_with_scores(
    decoder: Decoder, scorer: Scorer, params: Params, examples: Sequence[Example], first: int = 0
) -> list[Prediction]:
    """Rows with predictions and the score['log_likelihood'] of their tokens, EOS included.

    `first` is the number of the first example, see `predict.predict`.
    """
    rows = to_rows(examples)
    predicted = list(examples)
    numbers = range(first, first + len(examples))
    batches = decoder.decode_tokens(params, examples, numbers)
    pairs = (pair for batch in batches for pair in zip(*batch, strict=True))
    for index, ids in counted(pairs, "decoding", "rows", len(rows)):
        output = decoder.to_text(ids)
        # With the EOS, where there is one.
        target = np.array(ids[: len(output.tokens) + 1], np.int32)
        predicted[index] = dataclasses.replace(examples[index], targets=(target,))
        rows[index] = rows[index].with_answer(to_answer(output))
    scores = score_all(scorer, params, predicted)
    return [
        dataclasses.replace(row, score={"log_likelihood": float(score)})
        for row, score in zip(rows, scores, strict=True)
    ]
