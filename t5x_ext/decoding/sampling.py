"""Greedy decoding and sampling: every row chooses for itself."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext import bounds
from t5x_ext.decoding.methods import (
    FILL,
    MAX_OUTPUTS,
    OutputIds,
    RestrictedMethod,
    first_argmax,
    limits_of,
)


class Samples(NamedTuple):
    """Rows being written.

    Attributes:
      numbers: int32 [B], the prompts' numbers.
      tokens: int32 [B, K, T], 0 after a row's end.
      last: int32 [B, K], the decoder's next input.
      ended: bool [B, K], rows that have produced EOS or a stop (or are filler).
      stops: int32 [B, K, N], how much of each stop a row ends with, see `stops`.
      limits: int32 [B], see `Method.start`.
    """

    numbers: jax.Array
    tokens: jax.Array
    last: jax.Array
    ended: jax.Array
    stops: jax.Array
    limits: jax.Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy(RestrictedMethod):
    """The most probable token at every position, the lowest id among equals."""

    @property
    def num_rows(self) -> int:
        return 1

    @property
    def is_rowwise(self) -> bool:
        return True

    def start(
        self,
        numbers: jax.Array,
        filler: jax.Array,
        first: jax.Array,
        max_length: int,
        num_stops: int = 0,
        limits: jax.Array | None = None,
    ) -> Samples:
        shape = (len(numbers), self.num_rows)
        return Samples(
            numbers=numbers,
            tokens=jnp.full((*shape, max_length), FILL, jnp.int32),
            last=jnp.broadcast_to(first[:, None], shape),
            ended=jnp.broadcast_to(filler[:, None], shape),
            stops=jnp.zeros((*shape, num_stops), jnp.int32),
            limits=limits,
        )

    def last_tokens(self, state: Samples, index: jax.Array) -> jax.Array:
        return state.last

    def advance(
        self, state: Samples, logits: jax.Array, index: jax.Array, ids: OutputIds
    ) -> tuple[Samples, None]:
        scores = self.restrict(logits, index, limits_of(state), ids)
        chosen = jnp.where(state.ended, FILL, self.choose(scores, state.numbers, index))
        tokens = jax.lax.dynamic_update_slice_in_dim(state.tokens, chosen[..., None], index, axis=2)
        ended, stops = state.ended | ids.ends(chosen), state.stops
        if ids.stops is not None:
            stops, complete = ids.stops.step(stops, chosen)
            ended = ended | complete
        if state.limits is not None:
            ended = ended | (index + 1 >= state.limits)[:, None]
        return Samples(state.numbers, tokens, chosen, ended, stops, state.limits), None

    def choose(self, scores: jax.Array, numbers: jax.Array, index: jax.Array) -> jax.Array:
        """Tokens from restricted scores. [B, K, V] -> int32 [B, K]."""
        return first_argmax(scores)

    def is_done(self, state: Samples) -> jax.Array:
        return jnp.all(state.ended, axis=-1)

    def outputs(self, state: Samples) -> jax.Array:
        return state.tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(Greedy):
    """Tokens drawn from softmax(logits / temperature), filtered.

    A sample is a pure function of (seed, the prompt's number, the sample's number): neither the
    batch nor the order of the prompts changes it.

    Attributes:
      temperature: divides the logits before the filters, as in transformers.
      top_k: only the k most probable tokens; 0 keeps all.
      top_p: only the most probable tokens that together reach this probability after `top_k`;
        1 keeps all. Tokens as probable as the last one kept are kept too.
      num_samples: outputs S of each prompt; all read the same encoded prompt.
      seed: of the draws.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        # Beyond, logits / temperature is infinite or all alike in float32.
        hint = "; Greedy takes the most probable token"
        bounds.check_real("Sampling.temperature", self.temperature, 1e-6, 1e6, hint)
        bounds.check_int("Sampling.top_k", self.top_k, 0)
        bounds.check_real("Sampling.top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise self.error("top_p", "above 0, at most 1")
        bounds.check_int("Sampling.num_samples", self.num_samples, 1, MAX_OUTPUTS)
        bounds.check_seed("Sampling.seed", self.seed)

    @property
    def num_rows(self) -> int:
        return self.num_samples

    def choose(self, scores: jax.Array, numbers: jax.Array, index: jax.Array) -> jax.Array:
        kept = filter_scores(scores / self.temperature, self.top_k, self.top_p)
        seed_key = jax.random.key(self.seed)

        def noise(number: jax.Array, sample: jax.Array) -> jax.Array:
            key = seed_key
            for part in (number, sample, index):
                key = jax.random.fold_in(key, part)
            return jax.random.gumbel(key, scores.shape[-1:])

        over_samples = jax.vmap(noise, in_axes=(None, 0))
        drawn = jax.vmap(over_samples, in_axes=(0, None))(numbers, jnp.arange(self.num_samples))
        return first_argmax(kept + drawn)


def filter_scores(scores: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Sets tokens outside of the `top_k` and then of the `top_p` most probable to -inf.

    Args:
      scores: float32 [..., V], logits.
      top_k: see `Sampling`.
      top_p: see `Sampling`.
    """
    if 0 < top_k < scores.shape[-1]:
        least = jax.lax.top_k(scores, top_k)[0][..., -1:]
        scores = jnp.where(scores >= least, scores, -jnp.inf)
    if top_p == 1:
        return scores
    # The least probability p that is kept is the largest for which all tokens of at least p reach
    # top_p. Floats above 0 are ordered as their bits, so it is found bit by bit, without sorting:
    # 4 ms instead of 92 for [16, 32128] on CPU.
    probabilities = jax.nn.softmax(scores, axis=-1)
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def set_bit(place: jax.Array, least: jax.Array) -> jax.Array:
        tried = least | (1 << (30 - place))
        reached = jnp.sum(jnp.where(bits >= tried, probabilities, 0.0), axis=-1, keepdims=True)
        return jnp.where(reached >= top_p, tried, least)

    least = jax.lax.fori_loop(0, 31, set_bit, jnp.zeros((*bits.shape[:-1], 1), jnp.int32))
    return jnp.where(bits >= least, scores, -jnp.inf)
