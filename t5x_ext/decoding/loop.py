"""The decoding loop on the device: one `while_loop` over output positions.

The loop knows nothing about the model: it takes a tokens-to-logits callable and a rule that
chooses the next token, and stops as soon as every row has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext.models import incremental, network
from t5x_ext.models.network import T5Config
from t5x_ext.models.params import Params

# (cache, tokens int32 [B], index int32) -> (float32 logits [B, V], cache)
TokensToLogits = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
# (logits [B, V], index) -> int32 [B]
SelectToken = Callable[[jax.Array, jax.Array], jax.Array]

EOS_ID = 1
PAD_ID = 0


class LoopState(NamedTuple):
    """Carried from position to position.

    Attributes:
      index: int32 scalar, the position about to be written.
      tokens: int32 [B, T], written up to `index`, 0 after a row's end.
      last: int32 [B], the decoder's next input.
      done: bool [B], rows that have produced EOS (or were empty from the start).
      cache: whatever the tokens-to-logits callable carries.
    """

    index: jax.Array
    tokens: jax.Array
    last: jax.Array
    done: jax.Array
    cache: Any


def select_greedy(logits: jax.Array, index: jax.Array) -> jax.Array:
    """The most probable token, the lowest id among equals. [B, V] -> int32 [B]."""
    del index
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def run_loop(
    tokens_to_logits: TokensToLogits,
    select_token: SelectToken,
    cache: Any,
    done: jax.Array,
    max_length: int,
    num_valid_ids: int,
) -> jax.Array:
    """Decodes until every row has produced EOS or `max_length` tokens are written.

    Args:
      tokens_to_logits: advances the model by one position.
      select_token: chooses from logits.
      cache: the model's starting cache.
      done: bool [B], rows to leave empty (padding of the batch).
      max_length: T, EOS included.
      num_valid_ids: ids from this one on are padding rows of the embedding, never produced.

    Returns:
      int32 [B, T]; each row ends with EOS where one was produced, then zeros.
    """
    batch_size = done.shape[0]

    def running(state: LoopState) -> jax.Array:
        return (state.index < max_length) & ~jnp.all(state.done)

    def advance(state: LoopState) -> LoopState:
        logits, cache = tokens_to_logits(state.cache, state.last, state.index)
        valid = jnp.arange(logits.shape[-1]) < num_valid_ids
        chosen = select_token(jnp.where(valid, logits, -jnp.inf), state.index)
        chosen = jnp.where(state.done, PAD_ID, chosen)
        tokens = jax.lax.dynamic_update_slice_in_dim(
            state.tokens, chosen[:, None], state.index, axis=1
        )
        done = state.done | (chosen == EOS_ID)
        return LoopState(state.index + 1, tokens, chosen, done, cache)

    first = LoopState(
        index=jnp.int32(0),
        tokens=jnp.zeros((batch_size, max_length), jnp.int32),
        last=jnp.full((batch_size,), PAD_ID, jnp.int32),
        done=done,
        cache=cache,
    )
    return jax.lax.while_loop(running, advance, first).tokens


def decode_batch(
    cfg: T5Config,
    model_params: Params,
    inputs: jax.Array,
    max_length: int,
    num_valid_ids: int,
    select_token: SelectToken = select_greedy,
) -> jax.Array:
    """Encodes a padded batch and decodes it.

    Args:
      cfg: model shape.
      model_params: parameters in the tree of `network.param_specs`.
      inputs: int32 [B, L]; 0 is padding; a row of zeros is filler and comes back empty.
      max_length: T, EOS included.
      num_valid_ids: ids of the output vocabulary.
      select_token: the rule; greedy by default.

    Returns:
      int32 [B, T].
    """
    segment_ids = (inputs > 0).astype(jnp.int32)
    encoded = network.encode(cfg, model_params, inputs, segment_ids)
    weights, cache = incremental.start(cfg, model_params, encoded, segment_ids, max_length)

    def tokens_to_logits(cache: Any, tokens: jax.Array, index: jax.Array):
        return incremental.step(cfg, weights, cache, tokens, index)

    filler = ~jnp.any(segment_ids > 0, axis=-1)
    return run_loop(tokens_to_logits, select_token, cache, filler, max_length, num_valid_ids)
