"""Decoding for networks that keep no keys and values: every position reads its whole prefix again.

Right for any network with `hidden_states` and `output`, and slow: T output tokens take T forward
passes over the prompt and the output, where cached keys and values take one pass over one position
each. What is kept are the tokens themselves, in the places of keys, so that the loop treats them
like any other cache.

Letters used in shapes: B prompts, K rows that share a prompt, R = B * K, L prompt length, T output
positions so far.
"""

from __future__ import annotations

import abc
import dataclasses

import jax
import jax.numpy as jnp

from t5x_ext.models import parameters
from t5x_ext.models.blocks.cache import OutputCache, PromptCache, write
from t5x_ext.models.config import CacheShape
from t5x_ext.models.generation import DecodingWeights, Generator, scores
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import constrain, gather

Batch = dict[str, jax.Array]


class RecomputingGenerator(Generator):
    """Scores the next token with a forward pass over everything before it."""

    @abc.abstractmethod
    def batch(
        self, prompts: jax.Array, is_prompt: jax.Array, outputs: jax.Array, index: jax.Array
    ) -> tuple[Batch, jax.Array]:
        """Writes prompts and outputs as training has them.

        Args:
          prompts: int32 [R, L], what `start` keeps.
          is_prompt: bool [R, L], True at its tokens.
          outputs: int32 [R, T], decoder inputs; those after `index` are 0.
          index: int32 scalar, the last of them.

        Returns:
          T5X's features, and int32 [R], the position to score.
        """

    @property
    def cache_shape(self) -> CacheShape:
        return CacheShape(num_layers=1, num_kv_heads=1, head_dim=1, dtype="int32")

    def prepare(self, params: Params, whole: bool = True) -> DecodingWeights:
        cast = parameters.cast_kernels(self.network.specs, params, self.network.config.dtype)
        weights = DecodingWeights((), cast)
        return jax.tree.map(gather if whole else constrain, weights, self.weight_axes())

    def weight_specs(self) -> DecodingWeights:
        return DecodingWeights((), self.network.specs)

    def empty_cache(self, num_rows: int) -> OutputCache:
        return OutputCache((jnp.zeros((num_rows, 1, 0, 1), jnp.int32),), ())

    def step(
        self,
        weights: DecodingWeights,
        prompt: PromptCache,
        cache: OutputCache,
        tokens: jax.Array,
        index: jax.Array,
    ) -> tuple[jax.Array, OutputCache]:
        outputs = write(cache.keys[0], tokens.reshape(-1, 1, 1, 1), index)
        prompts, is_prompt = (
            jnp.repeat(array[:, 0, 0], tokens.shape[1], axis=0)
            for array in (prompt.keys[0], prompt.mask)
        )
        batch, last = self.batch(prompts, is_prompt, outputs[:, 0, :, 0], index)
        module = self.network.bind(weights.top)
        hidden = module.hidden_states(batch, None)  # [R, positions, D]
        hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return scores(module, hidden).reshape(*tokens.shape, -1), OutputCache((outputs,), ())


class RecomputingEncoderDecoderGenerator(RecomputingGenerator):
    """Encodes the prompt at every position; the decoder starts from token 0."""

    def start(
        self, params: Params, weights: DecodingWeights, prompts: jax.Array, lengths: jax.Array
    ) -> tuple[PromptCache, jax.Array]:
        del params, weights
        return _kept(prompts, lengths), jnp.zeros(len(prompts), jnp.int32)

    def batch(
        self, prompts: jax.Array, is_prompt: jax.Array, outputs: jax.Array, index: jax.Array
    ) -> tuple[Batch, jax.Array]:
        is_output = jnp.broadcast_to(jnp.arange(outputs.shape[1]) <= index, outputs.shape)
        features = _features("encoder", prompts, is_prompt)
        features |= _features("decoder", outputs, is_output)
        return features, jnp.full(len(outputs), index)


@dataclasses.dataclass(frozen=True)
class RecomputingDecoderOnlyGenerator(RecomputingGenerator):
    """Prompt and output are one sequence; the decoder starts from the prompt's last token.

    Attributes:
      bidirectional_prompt: see `data.features.DecoderOnlyFeatures`.
    """

    bidirectional_prompt: bool = False

    def start(
        self, params: Params, weights: DecodingWeights, prompts: jax.Array, lengths: jax.Array
    ) -> tuple[PromptCache, jax.Array]:
        del params, weights
        before = jnp.maximum(lengths - 1, 0)
        first = jnp.take_along_axis(prompts, before[:, None], axis=1)[:, 0]
        return _kept(prompts, before), first

    def batch(
        self, prompts: jax.Array, is_prompt: jax.Array, outputs: jax.Array, index: jax.Array
    ) -> tuple[Batch, jax.Array]:
        # Prompts differ in length: each row's outputs follow its own prompt without a gap.
        length, before = prompts.shape[1], jnp.sum(is_prompt, axis=1, dtype=jnp.int32)
        places = jnp.arange(length + outputs.shape[1])[None]
        of_output = jnp.clip(places - before[:, None], 0, outputs.shape[1] - 1)
        sources = jnp.where(places < before[:, None], places, length + of_output)
        joined = jnp.concatenate([prompts, outputs], axis=1)
        last = before + index
        tokens = jnp.take_along_axis(joined, sources, axis=1)
        features = _features("decoder", tokens, places <= last[:, None])
        if self.bidirectional_prompt:
            in_prompt = places <= before[:, None]  # its last token is the first of `outputs`
            features["decoder_causal_attention"] = in_prompt.astype(jnp.int32)
        return features, last


def _kept(prompts: jax.Array, lengths: jax.Array) -> PromptCache:
    """The first `lengths` tokens, in the place of keys."""
    mask = jnp.arange(prompts.shape[1]) < lengths[:, None]
    tokens = jnp.where(mask, prompts, 0)
    return PromptCache((tokens[:, None, None],), (), mask[:, None, None])


def _features(side: str, tokens: jax.Array, is_real: jax.Array) -> Batch:
    """One side of a batch, one segment a row."""
    real = is_real.astype(jnp.int32)
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32) * real
    features = {
        f"{side}_input_tokens": tokens * real,
        f"{side}_segment_ids": real,
        f"{side}_positions": positions,
    }
    if side == "decoder":
        # Not known yet, of course. T5X's networks take from them which positions are padding.
        features["decoder_target_tokens"] = real
    return features
