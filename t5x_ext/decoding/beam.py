"""Beam search with the rules of T5X or of transformers.

Both keep the K best unfinished rows ("live") and the K best finished ones, and look at the 2K best
continuations at every position. They differ in the score of a finished row of n tokens (EOS and
forced tokens counted) with log-probability p, in what counts as finished, and in when to stop:

                   style='t5x'                           style='hf'
    score          p / ((5 + n) / 6) ** length_penalty   p / n ** length_penalty
    finished       with EOS, among the 2K best           with EOS or at the limit, among the K best
    done when K    all beat the score that the best      all beat or equal the best live row's
    are finished,  live row would have one token after   score; early_stopping True: always;
    and            the limit                             'never': as if at the limit, if > 0
    none finished  the best live row                     cannot be

Sources: t5x/decoding.py `beam_search` (google-research/t5x); transformers 5
`GenerationMixin._beam_search`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext import bounds
from t5x_ext.decoding.methods import MAX_OUTPUTS, OutputIds, RestrictedMethod, limits_of

STYLES = ("t5x", "hf")


class Beams(NamedTuple):
    """K live and K finished rows of every prompt, both best first.

    Attributes:
      first: int32 [B, K], the decoder's first input.
      live_tokens: int32 [B, K, T].
      live_scores: float32 [B, K], sums of log-probabilities.
      tokens: int32 [B, K, T], finished rows.
      scores: float32 [B, K], of finished rows, with length penalty.
      filled: bool [B, K], whether there is a finished row.
      done: bool [B], prompts that no longer change.
      limits: int32 [B], see `Method.start`.
    """

    first: jax.Array
    live_tokens: jax.Array
    live_scores: jax.Array
    tokens: jax.Array
    scores: jax.Array
    filled: jax.Array
    done: jax.Array
    limits: jax.Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam(RestrictedMethod):
    """Beam search; see the head of this file.

    Attributes:
      num_beams: K.
      length_penalty: T5X's alpha, or transformers' `length_penalty`.
      style: 't5x' or 'hf'.
      early_stopping: of style 'hf': False, True, or 'never', which compares with the score at the
        limit where longer is better.
    """

    num_beams: int = 4
    length_penalty: float = 0.6
    style: str = "t5x"
    early_stopping: bool | str = False

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds.check_int("Beam.num_beams", self.num_beams, 1, MAX_OUTPUTS)
        bounds.check_real("Beam.length_penalty", self.length_penalty, -100, 100)
        if self.style not in STYLES:
            raise self.error("style", ", ".join(STYLES))
        if self.early_stopping not in (False, True, "never"):
            raise self.error("early_stopping", "False, True, 'never'")
        if self.style == "t5x" and self.early_stopping is not False:
            raise self.error("early_stopping", "False, or style 'hf'")
        if self.style == "t5x" and self.length_penalty < 0:
            raise self.error("length_penalty", "at least 0, or style 'hf'")

    @property
    def num_rows(self) -> int:
        return self.num_beams

    def start(
        self,
        numbers: jax.Array,
        filler: jax.Array,
        first: jax.Array,
        max_length: int,
        num_stops: int = 0,
        limits: jax.Array | None = None,
    ) -> Beams:
        shape = (len(numbers), self.num_beams)
        none = jnp.zeros((*shape, max_length), jnp.int32)
        # All rows are alike at first: the others must not win before the first has branched.
        only_first = jnp.where(jnp.arange(self.num_beams) == 0, 0.0, self._worst)
        return Beams(
            first=jnp.broadcast_to(first[:, None], shape),
            live_tokens=none,
            live_scores=jnp.broadcast_to(only_first, shape),
            tokens=none,
            scores=jnp.full(shape, self._worst),
            filled=jnp.zeros(shape, bool),
            done=filler,
            limits=limits,
        )

    def last_tokens(self, state: Beams, index: jax.Array) -> jax.Array:
        before = jnp.maximum(index - 1, 0)
        last = jax.lax.dynamic_index_in_dim(state.live_tokens, before, axis=2, keepdims=False)
        return jnp.where(index == 0, state.first, last)

    def advance(
        self, state: Beams, logits: jax.Array, index: jax.Array, ids: OutputIds
    ) -> tuple[Beams, jax.Array]:
        limits = limits_of(state)
        scores = self.restrict(jax.nn.log_softmax(logits), index, limits, ids)
        scores = scores + state.live_scores[..., None]
        # [B, K, V] -> [B, 2K], best first
        best, places = jax.lax.top_k(scores.reshape(len(scores), -1), 2 * self.num_beams)
        parents, tokens = places // logits.shape[-1], places % logits.shape[-1]
        continued = _take(state.live_tokens, parents)
        continued = jax.lax.dynamic_update_slice_in_dim(continued, tokens[..., None], index, axis=2)
        ended = ids.ends(tokens)
        if self.style == "hf":
            ended = ended | (index == limits - 1)[:, None]

        live_scores, kept = jax.lax.top_k(jnp.where(ended, self._worst, best), self.num_beams)
        finished = Beams(
            first=state.first,
            live_tokens=_take(continued, kept),
            live_scores=live_scores,
            done=state.done,
            limits=state.limits,
            **self._merge_finished(state, continued, best, ended, index + 1),
        )
        done = self._no_better(finished, index + 1, limits) | (index + 1 >= limits)
        advanced = finished._replace(done=state.done | done)
        # A done prompt stays as it is, so that its result does not depend on its batch.
        frozen = jax.tree.map(lambda old, new: _where_rows(state.done, old, new), state, advanced)
        return frozen, jnp.take_along_axis(parents, kept, axis=1)

    def is_done(self, state: Beams) -> jax.Array:
        return state.done

    def outputs(self, state: Beams) -> jax.Array:
        any_filled = jnp.any(state.filled, axis=1)
        return _where_rows(any_filled, state.tokens, state.live_tokens)[:, :1]

    @property
    def _worst(self) -> float:
        """The score of what must not win."""
        return -1.0e7 if self.style == "t5x" else -1.0e9

    def _penalise(self, scores: jax.Array, length: jax.Array | int) -> jax.Array:
        """Log-probabilities of rows of `length` tokens -> scores."""
        base = (5.0 + length) / 6.0 if self.style == "t5x" else jnp.asarray(length, jnp.float32)
        return scores / base**self.length_penalty

    def _merge_finished(
        self, state: Beams, continued: jax.Array, best: jax.Array, ended: jax.Array, length: Any
    ) -> dict[str, jax.Array]:
        """The best K of the finished rows so far and the 2K continuations that have ended."""
        counts = ended
        if self.style == "hf":
            counts = ended & (jnp.arange(2 * self.num_beams) < self.num_beams)
        new_scores = jnp.where(counts, self._penalise(best, length), self._worst)
        scores, kept = jax.lax.top_k(
            jnp.concatenate([state.scores, new_scores], axis=1), self.num_beams
        )
        return {
            "tokens": _take(jnp.concatenate([state.tokens, continued], axis=1), kept),
            "scores": scores,
            "filled": _take(jnp.concatenate([state.filled, counts], axis=1), kept),
        }

    def _no_better(self, state: Beams, length: jax.Array, limits: jax.Array) -> jax.Array:
        """Prompts whose finished rows the live ones are not expected to beat: bool [B]."""
        full = jnp.all(state.filled, axis=1)
        best_live, worst_finished = state.live_scores[:, 0], state.scores[:, -1]
        if self.style == "t5x":
            return full & (worst_finished > self._penalise(best_live, limits + 1))
        if self.early_stopping is True:
            return full
        at_limit = self.early_stopping == "never" and self.length_penalty > 0.0
        possible = self._penalise(best_live, limits if at_limit else length)
        return full & (possible <= worst_finished)


def _take(rows: jax.Array, places: jax.Array) -> jax.Array:
    """[B, K, ...] and int32 [B, N] -> [B, N, ...]."""
    return jnp.take_along_axis(rows, places.reshape(*places.shape, *(1,) * (rows.ndim - 2)), axis=1)


def _where_rows(choose_left: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    """Prompt by prompt, one or the other. bool [B], [B, ...], [B, ...] -> [B, ...]."""
    shape = (-1, *(1,) * (left.ndim - 1))
    return jnp.where(choose_left.reshape(shape), left, right)
