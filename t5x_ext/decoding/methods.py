"""What a decoding method has to provide, and what all methods have in common.

Letters used in shapes: B prompts, K rows of a prompt that are decoded side by side (samples or
beams), S outputs of a prompt, T longest output, V vocabulary.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext import bounds
from t5x_ext.decoding.stops import Stops
from t5x_ext.errors import ConfigError

MAX_OUTPUTS = 1 << 12  # samples or beams of one prompt
FILL = 0  # after a row's end


@dataclasses.dataclass(frozen=True)
class OutputIds:
    """What decoding has to know of a model's token ids.

    Attributes:
      eos: the ids that end a row; with none, rows go on to the longest output.
      num_valid: ids from this one on are padding rows of the embedding, never produced.
      stops: what else ends a row, by methods whose rows continue themselves.
    """

    eos: tuple[int, ...]
    num_valid: int
    stops: Stops | None = None

    @property
    def num_stops(self) -> int:
        """How many stops there are."""
        return 0 if self.stops is None else len(self.stops.sequences)

    @classmethod
    def of(cls, vocabulary: Any) -> OutputIds:
        """The ids of an output vocabulary."""
        eos = tuple(getattr(vocabulary, "eos_ids", None) or (vocabulary.eos_id,))
        return cls(eos, vocabulary.vocab_size)

    def ending_also_at(self, eos: Sequence[int]) -> OutputIds:
        """The same, with further ids that end a row; those that are never produced are left out."""
        more = [one for one in eos if 0 <= one < self.num_valid]
        return dataclasses.replace(self, eos=tuple(dict.fromkeys((*self.eos, *more))))

    def ends(self, tokens: jax.Array) -> jax.Array:
        """Where a row ends: bool, shaped as `tokens`."""
        found = jnp.zeros(tokens.shape, bool)
        for eos in self.eos:
            found = found | (tokens == eos)
        return found


class Method(abc.ABC):
    """How the next token is chosen. A method's state is a pytree whose arrays all lead with B."""

    max_length: int | None  # tokens a prediction has at most, EOS included, where a run allows more

    @property
    @abc.abstractmethod
    def num_rows(self) -> int:
        """K."""

    @property
    def num_sides(self) -> int:
        """Models whose scores it is given: 1, or 2, an expert and an amateur."""
        return 1

    @property
    def is_rowwise(self) -> bool:
        """Whether every row continues itself, so that stops can end it, and the log-probabilities
        of its tokens can be kept."""
        return False

    @abc.abstractmethod
    def check_length(self, max_length: int) -> None:
        """Raises ConfigError where the method needs more than `max_length` tokens."""

    @abc.abstractmethod
    def check_ids(self, ids: OutputIds) -> None:
        """Raises ConfigError where the method needs an end, or a token, that `ids` have not."""

    @abc.abstractmethod
    def start(
        self,
        numbers: jax.Array,
        filler: jax.Array,
        first: jax.Array,
        max_length: int,
        num_stops: int = 0,
        limits: jax.Array | None = None,
    ) -> Any:
        """The state before the first position.

        Args:
          numbers: int32 [B], each prompt's number among all prompts.
          filler: bool [B], prompts that are padding of the batch: done from the start.
          first: int32 [B], the decoder's first input.
          max_length: T, EOS included.
          num_stops: of `OutputIds.stops`.
          limits: int32 [B], the most tokens of each prompt's outputs, EOS included, T at most; None
            is T for all.
        """

    @abc.abstractmethod
    def last_tokens(self, state: Any, index: jax.Array) -> jax.Array:
        """The decoder's input at position `index`: int32 [B, K]."""

    @abc.abstractmethod
    def advance(
        self, state: Any, logits: jax.Array, index: jax.Array, ids: OutputIds
    ) -> tuple[Any, jax.Array | None]:
        """Chooses the tokens at `index`.

        Args:
          state: before this position.
          logits: float32 [B, K, V]; with two sides [B, 2, K, V], the expert's first.
          index: int32 scalar.
          ids: which tokens there are, and which end a row.

        Returns:
          The state after this position, and int32 [B, K]: the row each row now continues, or None
          where every row continues itself.
        """

    @abc.abstractmethod
    def is_done(self, state: Any) -> jax.Array:
        """Prompts whose outputs are final: bool [B]."""

    @abc.abstractmethod
    def outputs(self, state: Any) -> jax.Array:
        """int32 [B, S, T], best first; each ends with EOS where one was produced, then zeros."""

    def error(self, field: str, allowed: str) -> ConfigError:
        """The error for a field's value."""
        name = type(self).__name__
        return ConfigError(f"{name}.{field}: {getattr(self, field)!r}; allowed: {allowed}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestrictedMethod(Method):
    """A method that chooses among the tokens that these fields leave.

    Attributes:
      min_length: tokens a prediction has at least, EOS not counted (`min_new_tokens` of
        transformers).
      forced_prefix: tokens every prediction starts with; they add nothing to a beam's score.
      forced_eos: whether a prediction that reaches the length limit ends with EOS there.
      max_length: tokens a prediction has at most, EOS included, where the run allows more.
    """

    min_length: int = 0
    forced_prefix: Sequence[int] = ()
    forced_eos: bool = False
    max_length: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "forced_prefix", tuple(self.forced_prefix))
        bounds.check_int(f"{type(self).__name__}.min_length", self.min_length, 0)
        if self.max_length is not None:
            bounds.check_int(f"{type(self).__name__}.max_length", self.max_length, 1)
        for token in self.forced_prefix:
            bounds.check_int(f"{type(self).__name__}.forced_prefix", token, 0, 2**31 - 1)

    def restrict(
        self, scores: jax.Array, index: jax.Array, limits: jax.Array, ids: OutputIds
    ) -> jax.Array:
        """Sets the scores of tokens that are not allowed at `index` to -inf. [B, K, V] -> same.

        A forced token scores 0, as in transformers. `limits` is int32 [B], see `limits_of`.
        """
        tokens = jnp.arange(scores.shape[-1])
        allowed = (tokens < ids.num_valid) & (~ids.ends(tokens) | (index >= self.min_length))
        scores = jnp.where(allowed, scores, -jnp.inf)
        forced = jnp.full((len(scores), 1, 1), -1)
        if self.forced_eos:
            forced = jnp.where(index == limits[:, None, None] - 1, ids.eos[0], forced)
        if self.forced_prefix:
            prefix = jnp.array(self.forced_prefix, jnp.int32)
            here = prefix[jnp.minimum(index, len(prefix) - 1)]
            forced = jnp.where(index < len(prefix), here, forced)
        return jnp.where(forced < 0, scores, jnp.where(tokens == forced, 0.0, -jnp.inf))

    def check_length(self, max_length: int) -> None:
        """Raises ConfigError where the method needs more than `max_length` tokens."""
        if len(self.forced_prefix) >= max_length:
            raise self.error("forced_prefix", f"fewer than {max_length} tokens, the limit")
        if self.min_length >= max_length:
            raise self.error("min_length", f"less than {max_length}, the limit")

    def check_ids(self, ids: OutputIds) -> None:
        """Raises ConfigError where an end is forced and no id is one, or an id that is none."""
        if any(token >= ids.num_valid for token in self.forced_prefix):
            raise self.error("forced_prefix", f"ids of the vocabulary, 0 to {ids.num_valid - 1}")
        if self.forced_eos and not ids.eos:
            raise self.error("forced_eos", "False where no id ends an answer (eos_ids)")


def limits_of(state: Any) -> jax.Array:
    """Most tokens of each prompt's outputs: int32 [B], of a state with `tokens` and `limits`."""
    if state.limits is None:
        return jnp.full(len(state.tokens), state.tokens.shape[-1])
    return state.limits


def ids_before_eos(row: np.ndarray, eos_ids: Sequence[int]) -> list[int]:
    """[7, 8, eos, 0, 0] -> [7, 8]."""
    ends = np.flatnonzero(np.isin(row, eos_ids))
    return row[: ends[0]].tolist() if len(ends) else row.tolist()


def first_argmax(scores: jax.Array) -> jax.Array:
    """The best token, the lowest id among equals. [..., V] -> int32 [...].

    Two reductions instead of jnp.argmax: a fifth of its time on CPU.
    """
    size = scores.shape[-1]
    best = jnp.max(scores, axis=-1, keepdims=True)
    ids = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    return jnp.min(jnp.where(scores == best, ids, size - 1), axis=-1)


def check_method(decoding: Any) -> Method:
    """What a caller gives as the way to decode.

    Raises:
      ConfigError: the value is not a `Method`.
    """
    if not isinstance(decoding, Method):
        raise ConfigError(
            f"Model: decoding: {decoding!r}; allowed: Greedy(), Sampling(...), Beam(...) or "
            "Contrastive(...) of t5x_ext.decoding, or None"
        )
    return decoding
