"""Prompts with their targets in padded batches, and what the prompts of each begin with.

Two answers, x y and z, to one prompt, p q r, share all of it but its last token, which the first
token of each answer is predicted from:

    prefix    p q        read once
    rows      r x | r    read for each answer
    targets   x y | z    scored
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from t5x_ext.data.batching import eval_batches
from t5x_ext.data.features import Batch, Features, Lengths
from t5x_ext.data.length_buckets import make_length_buckets
from t5x_ext.data.records import Example
from t5x_ext.decoding.batches import Batching, RequestBatch
from t5x_ext.decoding.requests import Request
from t5x_ext.decoding.shared_prefixes import Sharing
from t5x_ext.decoding.token_calls import take_filled
from t5x_ext.models.generation import Prefixes


class ScoredRows(NamedTuple):
    """A batch of B rows.

    Attributes:
      places: int [n], of its rows among the examples; the other rows are filler.
      features: see `Features.build`; with prefixes, tokens, targets and weights of what follows.
      adapters: int32 [B], see `models.adapter_rows`; None if the model has none to choose from.
      prefixes: what the rows begin with; None where they are whole.
      length: with prefixes, positions of whole rows; see `Generator.scores_after`.
    """

    places: np.ndarray
    features: Batch
    adapters: np.ndarray | None
    prefixes: Prefixes | None = None
    length: int | None = None


def scored_batches(
    features: Features,
    examples: Sequence[Example],
    adapters: np.ndarray | None,
    batch_size: int,
    lengths: Lengths,
    sharing: Sharing | None,
) -> Iterator[ScoredRows]:
    """Each example once: those that share what they begin with, then the others whole.

    Args:
      features: what a batch holds.
      examples: prompts, and the first target of each.
      adapters: int32 [examples]; None if the model has none to choose from.
      batch_size: B.
      lengths: {'inputs': tokens, 'targets': tokens}, at most.
      sharing: how prefixes are shared; None reads every row whole.
    """
    left = np.ones(len(examples), bool)
    if sharing is not None:
        buckets = make_length_buckets(features.limits(lengths)["inputs"])
        requests = [
            _ask(example, number, None if adapters is None else int(adapters[number]))
            for number, example in enumerate(examples)
        ]
        for batch in Batching(batch_size, buckets, sharing=sharing).side_by_side([requests]):
            if batch.prefixes is not None:
                rows = _after_prefixes(batch, examples, adapters is not None)
                left[rows.places] = False
                yield rows
        del requests  # copies of all prompts
    (whole,) = np.nonzero(left)
    others = examples if left.all() else [examples[place] for place in whole.tolist()]
    for indices, of_batch in eval_batches(features, others, batch_size, lengths):
        places = whole[indices[indices >= 0]]
        yield ScoredRows(places, of_batch, take_filled(adapters, places, batch_size))


def _ask(example: Example, number: int, adapter: int | None) -> Request:
    """What is read of an example, the last token of its target being only predicted."""
    answer = _target(example)[:-1]
    read = np.concatenate([example.inputs, answer])
    own = () if adapter is None else (adapter,)
    return Request((read,), number, adapters=own, given=len(answer))


def _target(example: Example) -> np.ndarray:
    return example.targets[0] if example.targets else np.zeros(0, np.int32)


def _after_prefixes(
    batch: RequestBatch, examples: Sequence[Example], has_adapters: bool
) -> ScoredRows:
    assert batch.prefixes is not None
    places, tokens, lengths, prefixes = jax.tree.map(
        lambda of_models: of_models[0], (batch.places, batch.prompts, batch.lengths, batch.prefixes)
    )
    places = places[places >= 0]
    targets, weights = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
    for row, place in enumerate(places):
        target = _target(examples[place])
        own = slice(lengths[row] - len(target), lengths[row])
        targets[row, own], weights[row, own] = target, 1.0
    features = {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights,
    }
    if not has_adapters:
        return ScoredRows(places, features, None, prefixes._replace(adapters=None), batch.length)
    return ScoredRows(places, features, batch.adapters[0], prefixes, batch.length)
