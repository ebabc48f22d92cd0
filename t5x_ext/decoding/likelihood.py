"""How likely a model finds given targets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.data.batching import eval_batches
from t5x_ext.data.records import Example
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.methods import ids_before_eos
from t5x_ext.decoding.predict import to_rows
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.models import BaseTransformerModel
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Log-likelihoods of targets, in length buckets.

    Attributes:
      model: gives the network.
      partitioner: the mesh that parameters already live on.
      batch_size: examples per batch, global; rounded up to what the mesh divides.
      max_input_length: longest prompt in tokens, EOS included.
    """

    model: BaseTransformerModel
    partitioner: PjitPartitioner
    batch_size: int
    max_input_length: int

    @functools.cached_property
    def _score(self) -> Any:
        def score(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
            with self.partitioner.activate():
                chosen = self.model.log_probabilities(params, batch)
            return jnp.sum(chosen * batch["decoder_loss_weights"], axis=-1)

        return jax.jit(score, out_shardings=self.partitioner.sharding((None,)))

    def log_likelihoods(self, params: Params, examples: Sequence[Example]) -> np.ndarray:
        """The log-likelihood of each example's first target, EOS included.

        Args:
          params: parameters on the partitioner's mesh.
          examples: prompts and targets.

        Returns:
          float32 [len(examples)], natural logarithm, summed over the target's tokens.
        """
        batch_size = self.partitioner.round_up_batch(self.batch_size)
        longest = max((len(e.targets[0]) for e in examples if e.targets), default=1)
        lengths = {"inputs": self.max_input_length, "targets": -(-longest // 32) * 32}
        scores = np.zeros(len(examples), np.float32)
        for indices, batch in eval_batches(self.model.features, examples, batch_size, lengths):
            placed = {name: self.partitioner.put_whole(rows) for name, rows in batch.items()}
            values = np.asarray(self._score(params, placed))
            real = indices >= 0
            scores[indices[real]] = values[real]
        return scores


def score_targets(scorer: Scorer, params: Params, examples: Sequence[Example]) -> list[Prediction]:
    """Rows with each first reference as the prediction and score['log_likelihood']."""
    scores = scorer.log_likelihoods(params, examples)
    return [
        dataclasses.replace(
            row, prediction=row.references[0], score={"log_likelihood": float(score)}
        )
        for row, score in zip(to_rows(examples), scores, strict=True)
    ]


def predict_with_scores(
    decoder: Decoder, scorer: Scorer, params: Params, examples: Sequence[Example]
) -> list[Prediction]:
    """Rows with predictions and the score['log_likelihood'] of their tokens, EOS included."""
    vocabulary = decoder.model.output_vocabulary
    rows = to_rows(examples)
    predicted = list(examples)
    for indices, tokens in decoder.decode_tokens(params, examples):
        for index, ids in zip(indices, tokens, strict=True):
            kept = ids_before_eos(ids, decoder.programs.ids.eos)
            target = np.array(ids[: len(kept) + 1], np.int32)  # with the EOS, where there is one
            predicted[index] = dataclasses.replace(examples[index], targets=(target,))
            rows[index] = dataclasses.replace(rows[index], prediction=vocabulary.decode(kept))
    scores = scorer.log_likelihoods(params, predicted)
    return [
        dataclasses.replace(row, score={"log_likelihood": float(score)})
        for row, score in zip(rows, scores, strict=True)
    ]
