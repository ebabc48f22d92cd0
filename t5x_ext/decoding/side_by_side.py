"""Two models that read the same prompts and continue the same outputs: an expert and an amateur."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from t5x_ext.models.blocks.cache import OutputCache, PromptCache
from t5x_ext.models.config import CacheShape
from t5x_ext.models.generation import DecodingWeights, Generator
from t5x_ext.models.parameters import Params


@dataclasses.dataclass(frozen=True)
class SideBySideGenerator(Generator):
    """Parameters are {'expert': , 'amateur': }; the caches hold the layers of both, one after the
    other, and `step` gives the scores of the expert's rows, then those of the amateur's.

    Attributes:
      network: the expert's.
      expert: the first model.
      amateur: the second, with the same tokens; with an encoder where the first has one.
    """

    expert: Generator
    amateur: Generator

    @property
    def specs(self) -> Params:
        return {"expert": self.expert.specs, "amateur": self.amateur.specs}

    def abstract_params(self) -> Params:
        return {
            "expert": self.expert.abstract_params(),
            "amateur": self.amateur.abstract_params(),
        }

    @property
    def cache_shapes(self) -> tuple[CacheShape, ...]:
        return (*self.expert.cache_shapes, *self.amateur.cache_shapes)

    def prepare(self, params: Params, whole: bool = True) -> DecodingWeights:
        expert, amateur = (
            one.prepare(params[side], whole)
            for side, one in (("expert", self.expert), ("amateur", self.amateur))
        )
        return _pair(expert, amateur)

    def weight_specs(self) -> DecodingWeights:
        return _pair(self.expert.weight_specs(), self.amateur.weight_specs())

    def start(
        self, params: Params, weights: DecodingWeights, prompts: jax.Array, lengths: jax.Array
    ) -> tuple[PromptCache, jax.Array]:
        of_expert, of_amateur = weights.layers
        one, first = self.expert.start(params["expert"], of_expert, prompts, lengths)
        other, _ = self.amateur.start(params["amateur"], of_amateur, prompts, lengths)
        return PromptCache(one.keys + other.keys, one.values + other.values, one.mask), first

    def empty_cache(self, num_rows: int) -> OutputCache:
        one, other = self.expert.empty_cache(num_rows), self.amateur.empty_cache(num_rows)
        return OutputCache(one.keys + other.keys, one.values + other.values)

    def step(
        self,
        weights: DecodingWeights,
        prompt: PromptCache,
        cache: OutputCache,
        tokens: jax.Array,
        index: jax.Array,
    ) -> tuple[jax.Array, OutputCache]:
        """As `Generator.step`, with scores [B, 2 * K, V]."""
        num_layers = sum(shape.num_layers for shape in self.expert.cache_shapes)
        scores, caches = [], []
        for generator, of_side, layers in (
            (self.expert, weights.layers[0], slice(num_layers)),
            (self.amateur, weights.layers[1], slice(num_layers, None)),
        ):
            own_prompt = PromptCache(prompt.keys[layers], prompt.values[layers], prompt.mask)
            own_cache = OutputCache(cache.keys[layers], cache.values[layers])
            found, own_cache = generator.step(of_side, own_prompt, own_cache, tokens, index)
            scores.append(found)
            caches.append(own_cache)
        one, other = caches
        joined = OutputCache(one.keys + other.keys, one.values + other.values)
        return jnp.concatenate(scores, axis=1), joined


def _pair(expert: Any, amateur: Any) -> DecodingWeights:
    return DecodingWeights(layers=(expert, amateur), top={})
