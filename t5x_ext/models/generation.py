"""What decoding asks of a model: one position at a time, with cached keys and values.

Decoding knows a `Generator` and the two caches, and nothing of families: prompts go in once
(`start`), then tokens go in and scores come out (`step`). What differs is where a prompt goes:

    encoder-decoder   the prompt is encoded; the decoder starts from token 0
    decoder-only      the prompt but for its last token is read ahead ("prefill"); the decoder
                      starts from that last token, so that rows of all lengths start together

Letters used in shapes: B prompts, K rows that share a prompt (beams or samples), L prompt length,
T longest output, V vocabulary.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.models import nf4, parameters
from t5x_ext.models.adapter_rows import adapter_rows
from t5x_ext.models.config import CacheShape
from t5x_ext.models.network import Network
from t5x_ext.models.nf4 import NF4
from t5x_ext.models.parameters import Params, ParamSpec
from t5x_ext.partitioning import constrain, gather

if TYPE_CHECKING:
    from t5x_ext.models.blocks.cache import OutputCache, PromptCache


class Prefixes(NamedTuple):
    """What prompts begin with, each read once for all prompts that share it.

    Attributes:
      tokens: int32 [N, P], from the left.
      lengths: int32 [N], tokens of each; none where a prompt shares nothing.
      which: int32 [B], the prefix of each prompt.
      adapters: int32 [N], the adapter that each is read with, see `models.adapter_rows`; None if
        the model has none to choose from.
    """

    tokens: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray
    which: jax.Array | np.ndarray
    adapters: jax.Array | np.ndarray | None


class DecodingWeights(NamedTuple):
    """Parameters as every position reads them: in the compute dtype, layer by layer.

    Attributes:
      layers: the parameters of each decoder layer (of models side by side, the weights of each
        model). Slicing the stack inside the decoding loop would
        copy every weight at every position.
      top: those outside the decoder's layers that a position needs.
    """

    layers: tuple[Any, ...]
    top: Params


@dataclasses.dataclass(frozen=True)
class Generator(abc.ABC):
    """Decodes a network whose decoder is a stack, `decoder/layers`.

    Attributes:
      network: the network.
    """

    network: Network

    @property
    def specs(self) -> Params:
        """The tree of `ParamSpec` of the parameters that it takes."""
        return self.network.specs

    def abstract_params(self) -> Params:
        """Shapes and dtypes of these parameters; `NF4` where the network's kernels are."""
        found = parameters.abstract_params(self.specs)
        if self.network.quantization is None:
            return found
        return nf4.quantise_abstract(self.specs, found)

    @abc.abstractmethod
    def start(
        self, params: Params, weights: DecodingWeights, prompts: jax.Array, lengths: jax.Array
    ) -> tuple[PromptCache, jax.Array]:
        """Reads prompts.

        Args:
          params: parameters in the tree of `Network.specs`.
          weights: from `prepare`.
          prompts: int32 [B, L], from the left.
          lengths: int32 [B], tokens of each prompt; none for a filler row.

        Returns:
          What is kept of the prompts, and the decoder's first inputs, int32 [B].
        """

    @property
    def shares_prefixes(self) -> bool:
        """Whether `start_after` can go on where a shared prefix ends."""
        return False

    def start_after(
        self,
        params: Params,
        prefixes: PromptCache,
        which: jax.Array,
        prompts: jax.Array,
        lengths: jax.Array,
        length: int,
    ) -> tuple[PromptCache, jax.Array]:
        """Reads the rest of prompts whose prefixes are read.

        Args:
          params: parameters in the tree of `Network.specs`.
          prefixes: of N prefixes, from `read_prefixes`.
          which: int32 [B], the prefix of each prompt.
          prompts: int32 [B, S], what follows it.
          lengths: int32 [B], tokens of that, at least one; none for a filler row.
          length: positions that are kept of each prompt, its prefix and padding included.

        Returns:
          As `start`, of the prompts as a whole.
        """
        raise NotImplementedError(f"{type(self).__name__} shares no prefixes")

    def read_prefixes(
        self, params: Params, weights: DecodingWeights, prefixes: Prefixes
    ) -> PromptCache:
        """Reads prefixes for `start_after`, each with its own adapter."""
        lengths = jnp.asarray(prefixes.lengths)
        with adapter_rows(prefixes.adapters):
            # Of a prompt, the last token is not kept; of a prefix, every token is.
            return self.start(params, weights, jnp.asarray(prefixes.tokens), lengths + 1)[0]

    def scores_after(
        self, params: Params, prefixes: Prefixes, tokens: jax.Array, length: int
    ) -> jax.Array:
        """Scores what comes after each token of rows, but for those of their prefixes.

        Args:
          params: parameters in the tree of `Network.specs`.
          prefixes: read here.
          tokens: int32 [B, S], what follows the prefixes.
          length: most positions of a row, its prefix and padding included.

        Returns:
          float32 [B, S, V].
        """
        raise NotImplementedError(f"{type(self).__name__} shares no prefixes")

    def prepare(self, params: Params, whole: bool = True) -> DecodingWeights:
        """Takes the decoder's layers out of their stack, and casts what positions read.

        Args:
          params: parameters in the tree of `Network.specs`.
          whole: all-gathers them over the mesh axes that split the batch, so that no position has
            to; False leaves them in parts, see `decoding.placement`.
        """
        dtype = self.network.config.dtype
        specs = self.network.specs
        decoder = params["decoder"]
        stack = parameters.cast_kernels(specs["decoder"]["layers"], decoder["layers"], dtype)
        num_layers = jax.tree.leaves(stack)[0].shape[0]

        def slice_layer(index: int) -> Params:
            return jax.tree.map(lambda x: x[index], stack)

        def ready(spec: ParamSpec, x: jax.Array) -> jax.Array:
            # Outside of training, an embedding is cast once for all its uses.
            return x.astype(dtype) if spec.is_kernel or "vocab" in spec.axes else x

        top = _without_stacks(params)
        weights = DecodingWeights(
            layers=tuple(slice_layer(index) for index in range(num_layers)),
            top=parameters.map_specs(ready, _without_stacks(specs), top),
        )
        place = gather if whole else constrain

        def placed(x: Any, axes: tuple[str | None, ...]) -> Any:
            if isinstance(x, NF4):  # dequantised by every product: that is what it is for
                return x.gather(axes) if whole else x
            return place(x, axes)

        return jax.tree.map(
            placed, weights, self.weight_axes(), is_leaf=lambda x: isinstance(x, NF4)
        )

    def weight_specs(self) -> DecodingWeights:
        """The `ParamSpec` of each weight, in its array's place."""
        specs = self.network.specs
        layer = parameters.map_specs(_of_layer, specs["decoder"]["layers"])
        return DecodingWeights((layer,) * self.cache_shape.num_layers, _without_stacks(specs))

    def weight_axes(self) -> DecodingWeights:
        """The logical axes of each weight, a tuple in each array's place."""
        specs: Any = self.weight_specs()
        return cast(DecodingWeights, parameters.map_specs(lambda spec: spec.axes, specs))

    def models_axes(self) -> tuple[Params, DecodingWeights]:
        """The axes along which `vmap` finds models that decode side by side.

        Returns:
          Of parameters and of weights: 0 for what each model has alone; None for what lies under
          the adapters of all.
        """
        shares = bool(parameters.frozen(self.specs))

        def axis(spec: ParamSpec) -> int | None:
            return None if shares and not spec.is_adapter else 0

        specs: Any = self.weight_specs()
        of_weights = cast(DecodingWeights, parameters.map_specs(axis, specs))
        return parameters.map_specs(axis, self.specs), of_weights

    @property
    def cache_shape(self) -> CacheShape:
        """What is kept of each position."""
        return self.network.config.cache_shape

    @property
    def cache_shapes(self) -> tuple[CacheShape, ...]:
        """`cache_shape`, of each of several networks that decode side by side."""
        return (self.cache_shape,)

    def empty_cache(self, num_rows: int) -> OutputCache:
        """A cache of no positions for `num_rows` rows."""
        from t5x_ext.models.blocks.cache import OutputCache

        shape = self.cache_shape
        one = jnp.zeros((num_rows, shape.num_kv_heads, 0, shape.head_dim), shape.dtype)
        return OutputCache((one,) * shape.num_layers, (one,) * shape.num_layers)

    def step(
        self,
        weights: DecodingWeights,
        prompt: PromptCache,
        cache: OutputCache,
        tokens: jax.Array,
        index: jax.Array,
    ) -> tuple[jax.Array, OutputCache]:
        """Scores the token after position `index`.

        Args:
          weights: from `prepare`.
          prompt: from `start`.
          cache: positions before `index` are filled.
          tokens: int32 [B, K], the decoder input at `index`.
          index: int32 scalar, one position for all rows.

        Returns:
          float32 scores [B, K, V] and the cache with position `index` filled.
        """
        module = self.network.bind(_fill(self.network.specs, weights.top))
        layers = self._layers(module, weights)
        hidden, cache = module.step(layers, prompt, cache, tokens, index)
        return scores(module, hidden), cache

    def _layers(self, module: Any, weights: DecodingWeights) -> list[Any]:
        """A module for each layer, bound to its weights."""
        from flax import nnx

        graph = nnx.split(module.decoder.layers)[0]
        return [nnx.merge(graph, one) for one in weights.layers]


class EncoderDecoderGenerator(Generator):
    """Encodes prompts; the decoder starts from token 0."""

    def start(
        self, params: Params, weights: DecodingWeights, prompts: jax.Array, lengths: jax.Array
    ) -> tuple[PromptCache, jax.Array]:
        module = self.network.bind(params)
        mask = jnp.arange(prompts.shape[1]) < lengths[:, None]
        first = jnp.zeros(len(prompts), jnp.int32)
        return module.start(self._layers(module, weights), prompts, mask), first


@dataclasses.dataclass(frozen=True)
class DecoderOnlyGenerator(Generator):
    """Reads prompts but for their last tokens, from which the decoder starts.

    Attributes:
      bidirectional_prompt: see `data.features.DecoderOnlyFeatures`. The last token is then read
        with the others, which see it; what it sees itself is the same either way.
    """

    bidirectional_prompt: bool = False

    def start(
        self, params: Params, weights: DecodingWeights, prompts: jax.Array, lengths: jax.Array
    ) -> tuple[PromptCache, jax.Array]:
        del weights  # the whole stack is scanned
        places = jnp.arange(prompts.shape[1])
        mask = places < lengths[:, None] - 1
        last = jnp.maximum(lengths - 1, 0)
        first = jnp.take_along_axis(prompts, last[:, None], axis=1)[:, 0]
        module = self.network.bind(params)
        if self.bidirectional_prompt:
            return module.start(prompts, mask, places < lengths[:, None]), first
        return module.start(prompts, mask), first

    @property
    def shares_prefixes(self) -> bool:
        # In a bidirectional prompt, a prefix sees what follows it.
        return self.network.continues_prompts and not self.bidirectional_prompt

    def start_after(
        self,
        params: Params,
        prefixes: PromptCache,
        which: jax.Array,
        prompts: jax.Array,
        lengths: jax.Array,
        length: int,
    ) -> tuple[PromptCache, jax.Array]:
        kept = jnp.maximum(lengths - 1, 0)
        first = jnp.take_along_axis(prompts, kept[:, None], axis=1)[:, 0]
        module = self.network.bind(params)
        return module.start_after(prefixes, which, prompts, kept, length)[0], first

    def scores_after(
        self, params: Params, prefixes: Prefixes, tokens: jax.Array, length: int
    ) -> jax.Array:
        nothing = DecodingWeights((), {})  # `start` reads none
        begun, which = self.read_prefixes(params, nothing, prefixes), jnp.asarray(prefixes.which)
        module = self.network.bind(params)
        all_of_them = jnp.full(tokens.shape[:1], tokens.shape[1])
        _, hidden = module.start_after(begun, which, tokens, all_of_them, length)
        return scores(module, hidden)


def scores(module: Any, hidden: jax.Array) -> jax.Array:
    """Of every vocabulary row: [..., D] -> float32 [..., V]."""
    table, factor = module.output()
    if table is None:
        return hidden.astype(jnp.float32)
    products = jnp.einsum("...d,dv->...v", hidden, table, preferred_element_type=jnp.float32)
    return products if factor == 1.0 else products * factor


def _without_stacks(tree: Params) -> Params:
    """What is neither in the encoder nor in a layer of the decoder."""
    kept = {name: subtree for name, subtree in tree.items() if name != "encoder"}
    return kept | {"decoder": {k: v for k, v in tree["decoder"].items() if k != "layers"}}


def _of_layer(spec: ParamSpec) -> ParamSpec:
    return dataclasses.replace(spec, shape=spec.shape[1:], axes=spec.axes[1:])


def _fill(specs: Any, tree: Any) -> Any:
    """`tree` with abstract parameters in the places that it does not have."""
    if isinstance(specs, ParamSpec):
        return jax.ShapeDtypeStruct(specs.shape, jnp.float32) if tree is None else tree
    present = tree or {}
    return {name: _fill(spec, present.get(name)) for name, spec in specs.items()}
