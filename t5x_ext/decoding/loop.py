"""The decoding loop on the device: one `while_loop` over output positions.

The loop knows nothing about the model: it takes a tokens-to-logits callable and a method that
chooses tokens, and stops as soon as every prompt is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext.decoding.methods import Method
from t5x_ext.decoding.sampling import Greedy
from t5x_ext.models import incremental, network
from t5x_ext.models.incremental import DecoderWeights, Memory, SelfCache
from t5x_ext.models.network import T5Config
from t5x_ext.models.params import Params
from t5x_ext.partitioning import active_partitioner, constrain

# (cache, tokens int32 [B, K], index int32) -> (float32 logits [B, K, V], cache)
TokensToLogits = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]


class Rows(NamedTuple):
    """Prompts that are being decoded; every array leads with B, those of the cache with B * K.

    Attributes:
      memory: the encoded prompts.
      cache: positions so far.
      state: the method's.
    """

    memory: Memory
    cache: SelfCache
    state: Any


def run_loop(
    tokens_to_logits: TokensToLogits,
    method: Method,
    cache: Any,
    state: Any,
    start: int,
    stop: int,
    num_valid_ids: int,
    axis_name: str | None = None,
) -> tuple[Any, Any]:
    """Decodes positions from `start` to before `stop`, or until every prompt is done.

    Args:
      tokens_to_logits: advances the model by one position.
      method: chooses tokens.
      cache: the model's; its arrays lead with B * K.
      state: the method's.
      start: positions already decoded.
      stop: positions after this call.
      num_valid_ids: ids from this one on are padding rows of the embedding, never produced.
      axis_name: a vmapped axis of models that decode side by side, all until the last is done; None
        for a single model.

    Returns:
      The cache and the state afterwards.
    """

    def running(carry: tuple[jax.Array, Any, Any]) -> jax.Array:
        index, _, state = carry
        left = jnp.any(~method.is_done(state))
        if axis_name is not None:
            # One answer for all: with one for each, vmap would copy the whole carry at every
            # position to keep the models that are done as they are.
            left = jax.lax.pmax(left, axis_name)
        return (index < stop) & left

    def advance(carry: tuple[jax.Array, Any, Any]) -> tuple[jax.Array, Any, Any]:
        index, cache, state = carry
        logits, cache = tokens_to_logits(cache, method.last_tokens(state, index), index)
        state, parents = method.advance(state, logits, index, num_valid_ids)
        if parents is not None:
            cache = jax.tree.map(lambda rows: _follow(rows, parents), cache)
        return index + 1, cache, state

    _, cache, state = jax.lax.while_loop(running, advance, (jnp.int32(start), cache, state))
    return cache, state


def start_rows(
    cfg: T5Config,
    model_params: Params,
    weights: DecoderWeights,
    inputs: jax.Array,
    numbers: jax.Array,
    method: Method,
    max_length: int,
) -> Rows:
    """Encodes a padded batch of prompts.

    Args:
      cfg: model shape.
      model_params: parameters in the tree of `network.param_specs`.
      weights: from `incremental.prepare_weights`.
      inputs: int32 [B, L]; 0 is padding; a row of zeros is filler and comes back empty.
      numbers: int32 [B], each prompt's number; sampling depends on it.
      method: chooses tokens.
      max_length: T, EOS included.
    """
    segment_ids = (inputs > 0).astype(jnp.int32)
    encoded = network.encode(cfg, model_params, inputs, segment_ids)
    memory = incremental.make_memory(cfg, weights, encoded, segment_ids)
    cache = incremental.empty_cache(cfg, len(inputs), method.num_rows, 0)
    filler = ~jnp.any(segment_ids > 0, axis=-1)
    return _pin(cfg, Rows(memory, cache, method.start(numbers, filler, max_length)))


def advance_rows(
    cfg: T5Config,
    weights: DecoderWeights,
    rows: Rows,
    method: Method,
    start: int,
    stop: int,
    num_valid_ids: int,
    axis_name: str | None = None,
) -> Rows:
    """Decodes positions from `start` to before `stop`; the cache grows to `stop` positions.

    The arguments are those of `run_loop`.
    """

    def tokens_to_logits(cache: SelfCache, tokens: jax.Array, index: jax.Array):
        return incremental.step(cfg, weights, rows.memory, cache, tokens, index)

    cache = jax.tree.map(lambda filled: _pad(filled, -2, stop - start), rows.cache)
    cache, state = run_loop(
        tokens_to_logits, method, cache, rows.state, start, stop, num_valid_ids, axis_name
    )
    return _pin(cfg, rows._replace(cache=cache, state=state))


def move_rows(
    cfg: T5Config,
    into: Rows,
    rows: Rows,
    sources: jax.Array,
    targets: jax.Array,
    num_rows: int,
) -> Rows:
    """`into` with place targets[i] taken by place sources[i] of `rows`.

    Args:
      cfg: model shape.
      into: prompts padded at least as far as those of `rows`.
      rows: at the same position.
      sources: int32 [N].
      targets: int32 [N]; those beyond the places of `into` are ignored.
      num_rows: K.
    """
    missing = into.memory.mask.shape[-1] - rows.memory.mask.shape[-1]
    padded = rows._replace(
        memory=Memory(
            keys=tuple(_pad(keys, -1, missing) for keys in rows.memory.keys),
            values=tuple(_pad(values, -2, missing) for values in rows.memory.values),
            mask=_pad(rows.memory.mask, -1, missing),
        )
    )

    def move(into: jax.Array, rows: jax.Array) -> jax.Array:
        return into.at[targets].set(rows[sources], mode="drop")

    moved = jax.tree.map(move, _by_prompt(into, num_rows), _by_prompt(padded, num_rows))
    return _pin(cfg, _by_row(moved))


def take_rows(cfg: T5Config, rows: Rows, places: jax.Array, num_rows: int) -> Rows:
    """The prompts at `places`, int32 [N]; `num_rows` is K."""
    taken = jax.tree.map(lambda array: array[places], _by_prompt(rows, num_rows))
    return _pin(cfg, _by_row(taken))


def decode_batch(
    cfg: T5Config,
    model_params: Params,
    inputs: jax.Array,
    max_length: int,
    num_valid_ids: int,
    method: Method | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Encodes a padded batch and decodes it in one go; prompts are numbered by their row.

    Args:
      cfg: model shape.
      model_params: parameters in the tree of `network.param_specs`.
      inputs: int32 [B, L]; 0 is padding; a row of zeros is filler and comes back empty.
      max_length: T, EOS included.
      num_valid_ids: ids of the output vocabulary.
      method: chooses tokens; None is greedy.
      axis_name: see `run_loop`.

    Returns:
      int32 [B, T], the best (or first) output of each prompt.
    """
    method = method or Greedy()
    method.check_length(max_length)
    weights = incremental.prepare_weights(cfg, model_params)
    numbers = jnp.arange(len(inputs))
    rows = start_rows(cfg, model_params, weights, inputs, numbers, method, max_length)
    rows = advance_rows(cfg, weights, rows, method, 0, max_length, num_valid_ids, axis_name)
    return method.outputs(rows.state)[:, 0]


def _follow(rows: jax.Array, parents: jax.Array) -> jax.Array:
    """Each row becomes a copy of its parent. [B * K, ...], int32 [B, K] -> [B * K, ...]."""
    by_prompt = rows.reshape(*parents.shape, *rows.shape[1:])
    places = parents.reshape(*parents.shape, *(1,) * (rows.ndim - 1))
    return jnp.take_along_axis(by_prompt, places, axis=1).reshape(rows.shape)


def _by_prompt(rows: Rows, num_rows: int) -> Rows:
    """The cache's axis B * K as two."""
    split = lambda array: array.reshape(-1, num_rows, *array.shape[1:])  # noqa: E731
    return rows._replace(cache=jax.tree.map(split, rows.cache))


def _by_row(rows: Rows) -> Rows:
    """Undoes `_by_prompt`."""
    join = lambda array: array.reshape(-1, *array.shape[2:])  # noqa: E731
    return rows._replace(cache=jax.tree.map(join, rows.cache))


def _pad(array: jax.Array, axis: int, count: int) -> jax.Array:
    room = [(0, 0)] * array.ndim
    room[axis] = (0, count)
    return jnp.pad(array, room)


def _pin(cfg: T5Config, rows: Rows) -> Rows:
    """Lays rows out over the mesh in one way, whatever they come from."""
    partitioner = active_partitioner()
    if partitioner is None:
        return rows
    divides = cfg.num_heads % partitioner.mesh.shape["model"] == 0
    heads = "heads" if divides else None

    def pin(array: jax.Array, *axes: str | None) -> jax.Array:
        return constrain(array, ("batch", *axes, *(None,) * (array.ndim - 1 - len(axes))))

    by_head = lambda array: pin(array, heads)  # noqa: E731
    keys, values = jax.tree.map(by_head, rows.memory[:2])
    memory = Memory(keys, values, pin(rows.memory.mask))
    return Rows(memory, jax.tree.map(by_head, rows.cache), jax.tree.map(pin, rows.state))
