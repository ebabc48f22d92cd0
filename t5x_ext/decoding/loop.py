"""The decoding loop on the device: one `while_loop` over output positions.

A `Generator` scores the tokens after a position, a method chooses among them, and the loop stops as
soon as every prompt is done. Neither the loop nor the method knows what family the model is of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_ext.decoding.methods import Method, OutputIds
from t5x_ext.decoding.sampling import Greedy
from t5x_ext.models.blocks.cache import OutputCache, PromptCache, grow, pad
from t5x_ext.models.generation import DecodingWeights, Generator
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import active_partitioner, constrain

# (cache, tokens int32 [B, K], index int32) -> (float32 logits [B, K, V], cache)
TokensToLogits = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]

TOKEN_LOOP = "decode_tokens"


class Rows(NamedTuple):
    """Prompts that are being decoded; every array leads with B, those of the cache with B * K.

    Attributes:
      prompt: keys and values of the prompts.
      cache: keys and values of the positions decoded so far.
      state: what the method has chosen so far, and what it needs to go on.
    """

    prompt: PromptCache
    cache: OutputCache
    state: Any


def run_loop(
    tokens_to_logits: TokensToLogits,
    method: Method,
    cache: Any,
    state: Any,
    start: int,
    stop: int,
    ids: OutputIds,
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
      ids: which tokens there are, and which end a row.
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
        state, parents = method.advance(state, logits, index, ids)
        if parents is not None:
            cache = jax.tree.map(lambda rows: _follow(rows, parents), cache)
        return index + 1, cache, state

    with jax.named_scope(TOKEN_LOOP):  # by which plans find it in the compiled program
        _, cache, state = jax.lax.while_loop(running, advance, (jnp.int32(start), cache, state))
    return cache, state


def start_rows(
    generator: Generator,
    params: Params,
    weights: DecodingWeights,
    prompts: jax.Array,
    lengths: jax.Array,
    numbers: jax.Array,
    method: Method,
    max_length: int,
) -> Rows:
    """Reads a padded batch of prompts.

    Args:
      generator: the model.
      params: parameters in the tree of `Network.specs`.
      weights: from `Generator.prepare`.
      prompts: int32 [B, L], from the left.
      lengths: int32 [B], tokens of each prompt; a row of none is filler and comes back empty.
      numbers: int32 [B], each prompt's number; sampling depends on it.
      method: chooses tokens.
      max_length: T, EOS included.
    """
    prompt, first = generator.start(params, weights, prompts, lengths)
    cache = generator.empty_cache(len(prompts) * method.num_rows)
    state = method.start(numbers, lengths == 0, first, max_length)
    return _pin(Rows(prompt, cache, state))


def advance_rows(
    generator: Generator,
    weights: DecodingWeights,
    rows: Rows,
    method: Method,
    start: int,
    stop: int,
    ids: OutputIds,
    axis_name: str | None = None,
) -> Rows:
    """Decodes positions from `start` to before `stop`; the cache grows to `stop` positions.

    The arguments are those of `run_loop`.
    """

    def tokens_to_logits(cache: OutputCache, tokens: jax.Array, index: jax.Array):
        return generator.step(weights, rows.prompt, cache, tokens, index)

    cache = jax.tree.map(lambda filled: pad(filled, -2, stop - start), rows.cache)
    cache, state = run_loop(
        tokens_to_logits, method, cache, rows.state, start, stop, ids, axis_name
    )
    return _pin(rows._replace(cache=cache, state=state))


def move_rows(
    into: Rows, rows: Rows, sources: jax.Array, targets: jax.Array, num_rows: int
) -> Rows:
    """`into` with place targets[i] taken by place sources[i] of `rows`.

    Args:
      into: prompts padded at least as far as those of `rows`.
      rows: at the same position.
      sources: int32 [N].
      targets: int32 [N]; those beyond the places of `into` are ignored.
      num_rows: K.
    """
    padded = rows._replace(prompt=grow(rows.prompt, into.prompt.mask.shape[-1]))

    def move(into: jax.Array, rows: jax.Array) -> jax.Array:
        return into.at[targets].set(rows[sources], mode="drop")

    moved = jax.tree.map(move, _by_prompt(into, num_rows), _by_prompt(padded, num_rows))
    return _pin(_by_row(moved))


def take_rows(rows: Rows, places: jax.Array, num_rows: int) -> Rows:
    """The prompts at `places`, int32 [N]; `num_rows` is K."""
    taken = jax.tree.map(lambda array: array[places], _by_prompt(rows, num_rows))
    return _pin(_by_row(taken))


def decode_batch(
    generator: Generator,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    max_length: int,
    ids: OutputIds,
    method: Method | None = None,
    axis_name: str | None = None,
    whole_weights: bool = True,
) -> jax.Array:
    """Decodes a padded batch in one go; prompts are numbered by their row.

    Args:
      generator: the model.
      params: parameters in the tree of `Network.specs`.
      prompts: int32 [B, L], from the left.
      lengths: int32 [B], tokens of each prompt; a row of none is filler and comes back empty.
      max_length: T, EOS included.
      ids: which tokens there are, and which end a row.
      method: chooses tokens; None is greedy.
      axis_name: see `run_loop`.
      whole_weights: see `Generator.prepare`.

    Returns:
      int32 [B, T], the best (or first) output of each prompt.
    """
    method = method or Greedy()
    method.check_length(max_length)
    weights = generator.prepare(params, whole_weights)
    numbers = jnp.arange(len(prompts))
    rows = start_rows(generator, params, weights, prompts, lengths, numbers, method, max_length)
    rows = advance_rows(generator, weights, rows, method, 0, max_length, ids, axis_name)
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


def _pin(rows: Rows) -> Rows:
    """Lays rows out over the mesh in one way, whatever they come from."""
    partitioner = active_partitioner()
    if partitioner is None:
        return rows
    num_kv_heads = rows.prompt.keys[0].shape[1]
    heads = "heads" if num_kv_heads % partitioner.num_model_shards == 0 else None

    def pin(array: jax.Array, *axes: str | None) -> jax.Array:
        return constrain(array, ("batch", *axes, *(None,) * (array.ndim - 1 - len(axes))))

    by_head = lambda array: pin(array, heads)  # noqa: E731
    keys, values = jax.tree.map(by_head, rows.prompt[:2])
    prompt = PromptCache(keys, values, pin(rows.prompt.mask))
    return Rows(prompt, jax.tree.map(by_head, rows.cache), jax.tree.map(pin, rows.state))
