"""The decoding loop on the device: one `while_loop` over output positions.

A `Generator` scores the tokens after a position, a method chooses among them, and the loop stops as
soon as every output is done. Neither the loop nor the method knows what family the model is of.

Several prompts may share an output: contexts, whose distributions are mixed (`marginal`), and the
two sides of a contrast. Their scores become one before the method sees them, and the token that it
chooses goes to all of them:

    tokens [B, K] -> of each prompt [B * R, K] -> Generator.step -> scores [B, C, sides, K, V]
                  -> marginalise over C -> [B, sides, K, V] -> Method.advance -> tokens [B, K]

Letters used in shapes: B outputs to make (as many as prompts, where none share one), R prompts of
each, C contexts of each, K rows of a prompt that are decoded side by side (samples or beams), T
longest output, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.decoding.marginal import marginalise
from t5x_ext.decoding.methods import Method, OutputIds
from t5x_ext.decoding.sampling import Greedy
from t5x_ext.models.adapter_rows import adapter_rows
from t5x_ext.models.blocks.cache import OutputCache, PromptCache, grow, pad
from t5x_ext.models.generation import DecodingWeights, Generator, Prefixes
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import active_partitioner, constrain

# (cache, tokens int32 [B, K], index int32) -> (logits as `Method.advance` takes them, cache)
TokensToLogits = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]

TOKEN_LOOP = "decode_tokens"


class PromptExtras(NamedTuple):
    """Inputs of each prompt besides its tokens; None where all prompts share the default.

    Attributes:
      log_weights: float32 [B, C], natural logarithms of the contexts' weights; None if each
        output has one context.
      adapters: int32 [B * R], the adapter that each prompt is read with, see `models.adapter_rows`.
      limits: int32 [B], most tokens of each output.
      prefixes: what the prompts begin with; None where they are given whole. Used up by reading.
    """

    log_weights: jax.Array | np.ndarray | None = None
    adapters: jax.Array | np.ndarray | None = None
    limits: jax.Array | np.ndarray | None = None
    prefixes: Prefixes | None = None


class Prompts(NamedTuple):
    """A padded batch of prompts.

    Attributes:
      tokens: int32 [B * R, L], from the left; with prefixes, what follows them.
      lengths: int32 [B * R], tokens of each prompt. An output all of whose prompts have none is
        filler and comes back empty.
      numbers: int32 [B], each output's number; sampling depends on it.
      extras: what else there is to know.
    """

    tokens: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray
    numbers: jax.Array | np.ndarray
    extras: PromptExtras = PromptExtras()


class Rows(NamedTuple):
    """Outputs that are being decoded.

    Attributes:
      prompt: keys and values of the prompts; arrays lead with B * R.
      cache: keys and values of the positions decoded so far; arrays lead with B * R * K.
      state: what the method has chosen so far, and what it needs to go on; arrays lead with B.
      first: int32 [B * R], the decoder's first inputs.
      extras: of the prompts, without prefixes.
      log_probs: float32 [B, K, T], of the tokens chosen so far; None if nobody asks.
    """

    prompt: PromptCache
    cache: OutputCache
    state: Any
    first: jax.Array
    extras: PromptExtras
    log_probs: jax.Array | None


def run_loop(
    tokens_to_logits: TokensToLogits,
    method: Method,
    cache: Any,
    state: Any,
    start: int,
    stop: int,
    ids: OutputIds,
    axis_name: str | None = None,
    log_probs: jax.Array | None = None,
) -> tuple[Any, Any, jax.Array | None]:
    """Decodes positions from `start` to before `stop`, or until every output is done.

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
      log_probs: float32 [B, K, T], which the log-probabilities of the chosen tokens are written
        into (an expert's, where two sides are set against each other); None for not.

    Returns:
      The cache, the state and the log-probabilities afterwards.
    """

    def running(carry: tuple[jax.Array, Any, Any, Any]) -> jax.Array:
        index, _, state, _ = carry
        left = jnp.any(~method.is_done(state))
        if axis_name is not None:
            # One answer for all: with one for each, vmap would copy the whole carry at every
            # position to keep the models that are done as they are.
            left = jax.lax.pmax(left, axis_name)
        return (index < stop) & left

    def advance(carry: tuple[jax.Array, Any, Any, Any]) -> tuple[jax.Array, Any, Any, Any]:
        index, cache, state, log_probs = carry
        logits, cache = tokens_to_logits(cache, method.last_tokens(state, index), index)
        state, parents = method.advance(state, logits, index, ids)
        if parents is not None:
            cache = jax.tree.map(lambda rows: _follow(rows, parents), cache)
        if log_probs is not None:
            own = logits if method.num_sides == 1 else logits[:, 0]
            chosen = _log_probs_of(own, method.last_tokens(state, index + 1))
            log_probs = jax.lax.dynamic_update_slice_in_dim(log_probs, chosen, index, axis=2)
        return index + 1, cache, state, log_probs

    with jax.named_scope(TOKEN_LOOP):  # by which plans find it in the compiled program
        carry = jnp.int32(start), cache, state, log_probs
        _, cache, state, log_probs = jax.lax.while_loop(running, advance, carry)
    return cache, state, log_probs


def start_rows(
    generator: Generator,
    params: Params,
    weights: DecodingWeights,
    prompts: Prompts,
    method: Method,
    max_length: int,
    num_stops: int = 0,
    keep_log_probs: bool = False,
    length: int | None = None,
) -> Rows:
    """Reads prompts.

    Args:
      generator: the model.
      params: parameters in the tree of `Network.specs`.
      weights: from `Generator.prepare`.
      prompts: a batch of them.
      method: chooses tokens.
      max_length: T, EOS included.
      num_stops: see `Method.start`.
      keep_log_probs: see `run_loop`.
      length: with prefixes, positions that are kept of each prompt, see `Generator.start_after`.
    """
    prompt, first = _read(generator, params, weights, prompts, length)
    extras = prompts.extras._replace(prefixes=None)
    num_prompts, num_outputs = len(prompts.tokens), len(prompts.numbers)
    cache = generator.empty_cache(num_prompts * method.num_rows)
    of_each = num_prompts // num_outputs
    filler = jnp.all((prompts.lengths == 0).reshape(num_outputs, of_each), axis=1)
    # Where prompts share an output, the rows' own first tokens count, see `advance_rows`.
    limits = None if extras.limits is None else jnp.asarray(extras.limits)
    numbers = jnp.asarray(prompts.numbers)
    state = method.start(numbers, filler, first[::of_each], max_length, num_stops, limits)
    log_probs = None
    if keep_log_probs:
        log_probs = jnp.zeros((num_outputs, method.num_rows, max_length))
    return _pin(Rows(prompt, cache, state, first, extras, log_probs))


def _read(
    generator: Generator,
    params: Params,
    weights: DecodingWeights,
    prompts: Prompts,
    length: int | None,
) -> tuple[PromptCache, jax.Array]:
    """What is kept of prompts, and the decoder's first inputs."""
    tokens, lengths = jnp.asarray(prompts.tokens), jnp.asarray(prompts.lengths)
    extras = prompts.extras
    if extras.prefixes is None:
        with adapter_rows(extras.adapters):
            return generator.start(params, weights, tokens, lengths)
    assert length is not None
    begun = generator.read_prefixes(params, weights, extras.prefixes)
    which = jnp.asarray(extras.prefixes.which)
    with adapter_rows(extras.adapters):
        return generator.start_after(params, begun, which, tokens, lengths, length)


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
    num_prompts = rows.prompt.mask.shape[0]

    def tokens_to_logits(cache: OutputCache, tokens: jax.Array, index: jax.Array):
        num_outputs, num_rows = tokens.shape
        if num_prompts > num_outputs:
            tokens = jnp.repeat(tokens, num_prompts // num_outputs, axis=0)
            # Prompts that share an output may end with different tokens.
            tokens = jnp.where(index == 0, rows.first[:, None], tokens)
        with adapter_rows(rows.extras.adapters):
            logits, cache = generator.step(weights, rows.prompt, cache, tokens, index)
        sides = method.num_sides
        if rows.extras.log_weights is not None:
            logits = logits.reshape(num_outputs, -1, sides, num_rows, logits.shape[-1])
            logits = marginalise(logits, jnp.asarray(rows.extras.log_weights))
        shape = (num_outputs, sides, num_rows) if sides > 1 else (num_outputs, num_rows)
        return logits.reshape(*shape, logits.shape[-1]), cache

    cache = jax.tree.map(lambda filled: pad(filled, -2, stop - start), rows.cache)
    cache, state, log_probs = run_loop(
        tokens_to_logits,
        method,
        cache,
        rows.state,
        start,
        stop,
        ids,
        axis_name,
        rows.log_probs,
    )
    return _pin(rows._replace(cache=cache, state=state, log_probs=log_probs))


def move_rows(into: Rows, rows: Rows, sources: jax.Array, targets: jax.Array) -> Rows:
    """`into` with place targets[i] taken by place sources[i] of `rows`.

    Args:
      into: prompts padded at least as far as those of `rows`.
      rows: at the same position.
      sources: int32 [N].
      targets: int32 [N]; those beyond the places of `into` are ignored.
    """
    padded = rows._replace(prompt=grow(rows.prompt, into.prompt.mask.shape[-1]))

    def move(into: jax.Array, rows: jax.Array) -> jax.Array:
        return into.at[targets].set(rows[sources], mode="drop")

    return _of_outputs(move, into, padded)


def take_rows(rows: Rows, places: jax.Array) -> Rows:
    """The outputs at `places`, int32 [N]."""
    return _of_outputs(lambda array: array[places], rows)


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
    extras: PromptExtras = PromptExtras(),  # noqa: B008  (immutable)
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
      extras: of the prompts.

    Returns:
      int32 [B, T], the best (or first) output of each prompt.
    """
    method = method or Greedy()
    method.check_length(max_length)
    method.check_ids(ids)
    weights = generator.prepare(params, whole_weights)
    batch = Prompts(prompts, lengths, jnp.arange(len(prompts)), extras)
    rows = start_rows(generator, params, weights, batch, method, max_length)
    rows = advance_rows(generator, weights, rows, method, 0, max_length, ids, axis_name)
    return method.outputs(rows.state)[:, 0]


def _follow(rows: jax.Array, parents: jax.Array) -> jax.Array:
    """Each row becomes a copy of its parent. [B * R * K, ...], int32 [B, K] -> [B * R * K, ...]."""
    if len(rows) > parents.size:
        parents = jnp.repeat(parents, len(rows) // parents.size, axis=0)
    by_prompt = rows.reshape(*parents.shape, *rows.shape[1:])
    places = parents.reshape(*parents.shape, *(1,) * (rows.ndim - 1))
    return jnp.take_along_axis(by_prompt, places, axis=1).reshape(rows.shape)


def _log_probs_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """float32 [B, K, V] and int32 [B, K] -> float32 [B, K, 1]."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)
    return chosen - jax.nn.logsumexp(logits, axis=-1, keepdims=True)


def _of_outputs(change: Callable[..., jax.Array], *rows: Rows) -> Rows:
    """Applies a function of arrays that lead with the outputs to all arrays of `rows`."""

    def one(*arrays: jax.Array, num_outputs: Sequence[int]) -> jax.Array:
        changed = change(
            *(
                array.reshape(number, array.shape[0] // number, *array.shape[1:])
                for array, number in zip(arrays, num_outputs, strict=True)
            )
        )
        return changed.reshape(changed.shape[0] * changed.shape[1], *changed.shape[2:])

    sizes = [jax.tree.leaves(each.state)[0].shape[0] for each in rows]
    return _pin(jax.tree.map(functools.partial(one, num_outputs=sizes), *rows))


def _pin(rows: Rows) -> Rows:
    """Lays rows out over the mesh in one way, whatever they come from."""
    partitioner = active_partitioner()
    if partitioner is None:
        return rows

    def pin(array: jax.Array, *axes: str | None) -> jax.Array:
        return constrain(array, ("batch", *axes, *(None,) * (array.ndim - 1 - len(axes))))

    def by_head(array: jax.Array) -> jax.Array:
        return pin(array, "heads" if array.shape[1] % partitioner.num_model_shards == 0 else None)

    keys, values = jax.tree.map(by_head, rows.prompt[:2])
    prompt = PromptCache(keys, values, pin(rows.prompt.mask))
    cache = jax.tree.map(by_head, rows.cache)
    return Rows(prompt, cache, *jax.tree.map(pin, rows[2:]))
