"""Two models that read the same prompts and continue the same outputs: an expert and an amateur."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from t5x_ext.models.adapter_rows import adapter_rows
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
      amateur_adapter: the adapter that it reads every row with, see `models.adapter_rows`; None
        where its network holds no several. The expert's are those of the batch.
    """

    expert: Generator
    amateur: Generator
    amateur_adapter: int | None = None

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
        with self._of_amateur(len(prompts)):
            other, _ = self.amateur.start(params["amateur"], of_amateur, prompts, lengths)
        return PromptCache(one.keys + other.keys, one.values + other.values, one.mask), first

    @property
    def shares_prefixes(self) -> bool:
        return self.expert.shares_prefixes and self.amateur.shares_prefixes

    def start_after(
        self,
        params: Params,
        prefixes: PromptCache,
        which: jax.Array,
        prompts: jax.Array,
        lengths: jax.Array,
        length: int,
    ) -> tuple[PromptCache, jax.Array]:
        rest = which, prompts, lengths, length
        of_expert, of_amateur = self._split(prefixes)
        one, first = self.expert.start_after(params["expert"], of_expert, *rest)
        with self._of_amateur(len(prompts)):
            other, _ = self.amateur.start_after(params["amateur"], of_amateur, *rest)
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
        prompts = self._split(prompt)
        scores, caches = [], []
        for side, generator in enumerate((self.expert, self.amateur)):
            layers = self._layers_of(side)
            own_cache = OutputCache(cache.keys[layers], cache.values[layers])
            of_side = weights.layers[side], prompts[side], own_cache
            with self._of_amateur(len(tokens)) if side else contextlib.nullcontext():
                found, own_cache = generator.step(*of_side, tokens, index)
            scores.append(found)
            caches.append(own_cache)
        one, other = caches
        joined = OutputCache(one.keys + other.keys, one.values + other.values)
        return jnp.concatenate(scores, axis=1), joined

    def _of_amateur(self, num_rows: int) -> contextlib.AbstractContextManager[None]:
        """Says which adapter the amateur reads rows with."""
        number = self.amateur_adapter
        return adapter_rows(None if number is None else jnp.full(num_rows, number, jnp.int32))

    def _layers_of(self, side: int) -> slice:
        """The expert's layers, 0, or the amateur's, 1, among those of both."""
        num_layers = sum(shape.num_layers for shape in self.expert.cache_shapes)
        return slice(num_layers, None) if side else slice(num_layers)

    def _split(self, prompt: PromptCache) -> list[PromptCache]:
        """What the expert keeps of prompts, and what the amateur keeps."""
        layers = self._layers_of(0), self._layers_of(1)
        return [PromptCache(prompt.keys[one], prompt.values[one], prompt.mask) for one in layers]


def _pair(expert: Any, amateur: Any) -> DecodingWeights:
    return DecodingWeights(layers=(expert, amateur), top={})
