"""Contrastive decoding: what an expert prefers more than an amateur does.

Of e, the expert's log-probabilities, and a, the amateur's at temperature tau, with

    head = tokens of e >= log alpha + max e      ("plausible": at least alpha times the best)

the scores of the head are

    log_ratio    e - a                           Li et al. 2023
    beta         (1 + beta) e - beta a           O'Brien and Lewis 2023
    difference   exp e - exp a                   Kang et al. 2023, eq. 3

and -inf elsewhere. Without a head (alpha 0), the ratio of two tiny probabilities picks tokens that
neither model would say.

Letters used in shapes: B outputs, K rows of each, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from t5x_ext import bounds
from t5x_ext.decoding.methods import Method, OutputIds, limits_of
from t5x_ext.decoding.sampling import Greedy

MODES = ("log_ratio", "beta", "difference")
TIED = 1e-5  # scores nearer than this to the best are one score, but for rounding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Method):
    """Greedy decoding or sampling by the contrast of two models; see the head of this file.

    Where scores are tied (an expert against itself), the expert decides, so that greedy decoding
    remains what it is without a contrast.

    Attributes:
      mode: 'log_ratio', 'beta' or 'difference'.
      alpha: plausibility, 0 to 1; None is 0.1, or of 'difference', as in eq. 3, 0.
      beta: strength of the contrast, of mode 'beta' alone.
      amateur_temperature: tau; above 1 makes the amateur less sure.
      method: `Greedy`, or `Sampling` from the softmax of the scores.
    """

    mode: str = "log_ratio"
    alpha: float | None = None
    beta: float = 0.5
    amateur_temperature: float = 1.0
    method: Greedy = dataclasses.field(default_factory=Greedy)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise self.error("mode", ", ".join(MODES))
        if self.alpha is None:
            object.__setattr__(self, "alpha", 0.0 if self.mode == "difference" else 0.1)
        bounds.check_real("Contrastive.alpha", self.alpha, 0, 1)
        bounds.check_real("Contrastive.beta", self.beta, 0, 1e6)
        bounds.check_real("Contrastive.amateur_temperature", self.amateur_temperature, 1e-6, 1e6)
        if not isinstance(self.method, Greedy):
            raise self.error("method", "Greedy(...) or Sampling(...)")

    @property
    def max_length(self) -> int | None:  # type: ignore[override]
        return self.method.max_length

    @property
    def num_rows(self) -> int:
        return self.method.num_rows

    @property
    def num_sides(self) -> int:
        return 2

    @property
    def is_rowwise(self) -> bool:
        return self.method.is_rowwise

    def check_length(self, max_length: int) -> None:
        self.method.check_length(max_length)

    def check_ids(self, ids: OutputIds) -> None:
        self.method.check_ids(ids)

    def start(
        self,
        numbers: jax.Array,
        filler: jax.Array,
        first: jax.Array,
        max_length: int,
        num_stops: int = 0,
        limits: jax.Array | None = None,
    ) -> Any:
        return self.method.start(numbers, filler, first, max_length, num_stops, limits)

    def last_tokens(self, state: Any, index: jax.Array) -> jax.Array:
        return self.method.last_tokens(state, index)

    def advance(
        self, state: Any, logits: jax.Array, index: jax.Array, ids: OutputIds
    ) -> tuple[Any, jax.Array | None]:
        expert = jax.nn.log_softmax(logits[:, 0])
        # A token that is not allowed must not decide which others are plausible.
        expert = self.method.restrict(expert, index, limits_of(state), ids)
        scores = break_ties(self.contrast(expert, logits[:, 1]), expert)
        return self.method.advance(state, scores, index, ids)

    def is_done(self, state: Any) -> jax.Array:
        return self.method.is_done(state)

    def outputs(self, state: Any) -> jax.Array:
        return self.method.outputs(state)

    def contrast(self, expert: jax.Array, amateur: jax.Array) -> jax.Array:
        """Scores of tokens.

        Args:
          expert: float32 [..., V], log-probabilities; -inf where a token is not allowed.
          amateur: float32 [..., V], logits.

        Returns:
          float32 [..., V], -inf outside of the head.
        """
        least = math.log(self.alpha) if self.alpha else -math.inf
        best = jnp.max(expert, axis=-1, keepdims=True)
        head = (expert >= least + best) & (expert > -jnp.inf)
        other = jax.nn.log_softmax(amateur / self.amateur_temperature)
        # Of a mixture it may be -inf, where any number of the expert's would beat all others.
        other = jnp.maximum(other, jnp.finfo(jnp.float32).min / 4)
        if self.mode == "difference":
            scores = jnp.exp(expert) - jnp.exp(other)
        elif self.mode == "beta":
            scores = (1 + self.beta) * expert - self.beta * other
        else:
            scores = expert - other
        return jnp.where(head, scores, -jnp.inf)


def break_ties(scores: jax.Array, expert: jax.Array) -> jax.Array:
    """Scores counted from the best, in which the expert decides between those that are tied.

    Args:
      scores: float32 [..., V].
      expert: float32 [..., V], log-probabilities.

    Returns:
      float32 [..., V]: scores - max(scores), and between 0 and TIED where they are tied with it.
    """
    best = jnp.max(scores, axis=-1, keepdims=True)
    below = scores - jnp.where(best > -jnp.inf, best, 0.0)
    return jnp.where(below >= -TIED, TIED * jnp.exp(expert), below)
