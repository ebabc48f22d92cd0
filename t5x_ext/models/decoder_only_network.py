"""The decoder-only network: embedding, a stack of layers, a norm and an output projection.

LLaMA, MPT and Falcon differ in their norms, positions, heads and in whether attention and the
feed-forward block run one after the other or side by side. Each states these in `LayerShape`; the
network is one. Parameter names are T5X's decoder-only ones
(`decoder/layers/self_attention/query/kernel`).

Letters used in shapes: B batch, L length, D emb_dim, K rows that share a prompt, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from t5x_ext.models import parameters
from t5x_ext.models.blocks.attend import Attend, make_attend
from t5x_ext.models.blocks.attention import Attention
from t5x_ext.models.blocks.cache import OutputCache, PromptCache, prompt_cache, stack_layers
from t5x_ext.models.blocks.continuation import Continuation
from t5x_ext.models.blocks.dropout import dropout, fold_key
from t5x_ext.models.blocks.linear import Embedding, Linear
from t5x_ext.models.blocks.mlp import MLP
from t5x_ext.models.blocks.parameter import stacked
from t5x_ext.models.blocks.pattern import Heads, Pattern
from t5x_ext.models.blocks.positions import ALiBi, Rotary
from t5x_ext.models.blocks.stack import scan_layers
from t5x_ext.partitioning import constrain, gather

if TYPE_CHECKING:
    from t5x_ext.models.decoder_only_config import DecoderOnlyConfig

_AROUND_ATTENTION = ("projection", "heads", "residual")

# What the backward pass finds in memory, by the names given in `blocks`; it computes the rest
# again. Products of matrices cost D multiplications for each number saved, all of them.
SAVED_BY_REMAT_POLICY: dict[str, tuple[str, ...] | None] = {
    "none": None,
    "minimal": (*_AROUND_ATTENTION, "wi", "wi_0", "wi_1"),
    "balanced": _AROUND_ATTENTION,
    "full": (),
}

# Where dropout is applied in a layer; each folds its number into the layer's key.
_WEIGHTS, _AFTER_ATTENTION, _MLP, _AFTER_MLP = range(4)
# And outside the layers.
_INPUT, _LAYERS = range(2)


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """What a family's layer is made of.

    Attributes:
      make_norm: makes a norm over D.
      heads: heads of self-attention.
      mlp_dim: width of the feed-forward block.
      mlp_activations: see `MLP`.
      parallel: True adds attention and feed-forward block of the same input,
        x + attention(norm(x)) + mlp(norm'(x)); False runs them one after the other.
      shared_norm: in a parallel layer, one norm serves both.
      clip: see `Attention`.
      rotary: turns queries and keys, or None.
      bias: by distance, or None.
    """

    make_norm: Callable[[], nnx.Module]
    heads: Heads
    mlp_dim: int
    mlp_activations: Sequence[str]
    parallel: bool = False
    shared_norm: bool = False
    clip: float | None = None
    rotary: Rotary | None = None
    bias: ALiBi | None = None


class DecoderLayer(nnx.Module):
    """Self-attention and a feed-forward block, each added to the residual stream."""

    def __init__(self, dim: int, shape: LayerShape, dropout_rate: float):
        init = parameters.fan_in()
        self.pre_self_attention_layer_norm = shape.make_norm()
        self.self_attention = Attention(dim, shape.heads, init=init, clip=shape.clip)
        if not shape.shared_norm:
            self.pre_mlp_layer_norm = shape.make_norm()
        self.mlp = MLP(dim, shape.mlp_dim, shape.mlp_activations, init, dropout_rate)
        self.shape = shape
        self.rate = dropout_rate

    def __call__(self, x: jax.Array, attend: Attend, key: jax.Array | None) -> jax.Array:
        """[B, L, D] -> [B, L, D]."""
        y = self.pre_self_attention_layer_norm(x)
        attended = self.self_attention(y, attend, fold_key(key, _WEIGHTS))
        attended = self._drop(attended, key, _AFTER_ATTENTION)
        if self.shape.parallel:
            y = y if self.shape.shared_norm else self.pre_mlp_layer_norm(x)
            residual = checkpoint_name(x + attended, "residual")
        else:
            residual = checkpoint_name(x + attended, "residual")
            y = self.pre_mlp_layer_norm(residual)
        fed = self._drop(self.mlp(y, fold_key(key, _MLP)), key, _AFTER_MLP)
        return constrain(residual + fed, ("batch", "length", "embed"))

    def step(
        self,
        x: jax.Array,
        prompt: tuple[jax.Array, jax.Array, jax.Array],
        keys: jax.Array,
        values: jax.Array,
        index: jax.Array,
        angles: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One position, [B, K, D]; see `Attention.step_with_prompt`."""
        y = self.pre_self_attention_layer_norm(x)
        attended, keys, values = self.self_attention.step_with_prompt(
            y, prompt, keys, values, index, self.shape.bias, angles
        )
        residual = x + attended
        if not self.shape.parallel:
            y = self.pre_mlp_layer_norm(residual)
        elif not self.shape.shared_norm:
            y = self.pre_mlp_layer_norm(x)
        return residual + self.mlp(y), keys, values

    def _drop(self, x: jax.Array, key: jax.Array | None, site: int) -> jax.Array:
        return dropout(x, self.rate, fold_key(key, site), broadcast_axis=-2)


class Decoder(nnx.Module):
    """The stack, the last norm and the output projection where it is not the embedding."""

    def __init__(self, cfg: DecoderOnlyConfig, shape: LayerShape):
        layer = DecoderLayer(cfg.emb_dim, shape, cfg.dropout_rate)
        self.layers = stacked(layer, cfg.num_layers)
        self.decoder_norm = shape.make_norm()
        if not cfg.logits_via_embedding:
            table = (cfg.emb_dim, cfg.vocab_size)
            self.logits_dense = Linear(table, ("embed", "vocab"), parameters.fan_in())


class DecoderOnly(nnx.Module):
    """The network; see `models.network` for what is asked of one."""

    def __init__(self, cfg: DecoderOnlyConfig, shape: LayerShape):
        embedding_init = parameters.normal(cfg.embedding_stddev)
        self.token_embedder = Embedding(cfg.vocab_size, cfg.emb_dim, cfg.dtype, embedding_init)
        self.decoder = Decoder(cfg, shape)
        self.cfg = cfg
        self.shape = shape

    def hidden_states(
        self, batch: dict[str, jax.Array], dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """The last activations for a converted batch, packed or not: [B, L, D].

        Features are T5X's: `decoder_input_tokens`; `decoder_segment_ids`, 0 at padding;
        `decoder_positions`, which restart in each segment (without them, places in the row); and
        `decoder_causal_attention`, 1 on a prefix whose tokens see each other whatever their order.
        """
        tokens = batch["decoder_input_tokens"]
        segments = batch["decoder_segment_ids"]
        prefix = batch.get("decoder_causal_attention")
        pattern = Pattern(
            segments,
            segments,
            causal=True,
            prefix=None if prefix is None else prefix > 0,
            bias=self.shape.bias,
            angles=self._angles(batch.get("decoder_positions"), tokens.shape),
        )
        return self.decoder.decoder_norm(self._run(tokens, pattern, dropout_key)[0])

    def output(self) -> tuple[jax.Array, float]:
        """The output projection [D, V] in the compute dtype, and the factor of its products."""
        if self.cfg.logits_via_embedding:
            return self.token_embedder.transposed(), 1.0
        kernel = self.decoder.logits_dense.kernel[...].astype(self.cfg.dtype)
        return gather(kernel, ("embed", "vocab")), 1.0

    def start(
        self, prompts: jax.Array, mask: jax.Array, prefix: jax.Array | None = None
    ) -> PromptCache:
        """Reads prompts for `step`.

        Args:
          prompts: int32 [B, L].
          mask: bool [B, L], the positions to keep: all of a prompt but its last.
          prefix: bool [B, L], positions that see each other whatever their order: all of a prompt.
            None: each position sees those before it.
        """
        segments = (mask if prefix is None else prefix).astype(jnp.int32)
        pattern = Pattern(
            segments,
            segments,
            causal=True,
            prefix=prefix,
            bias=self.shape.bias,
            angles=self._angles(None, prompts.shape),
        )
        _, (keys, values) = self._run(prompts, pattern, None, collect=True)
        return prompt_cache(tuple(keys), tuple(values), mask)

    def start_after(
        self,
        prefixes: PromptCache,
        which: jax.Array,
        prompts: jax.Array,
        lengths: jax.Array,
        length: int,
    ) -> tuple[PromptCache, jax.Array]:
        """Reads what follows prefixes that `start` has read, as if it had read both.

        Args:
          prefixes: of N prefixes.
          which: int32 [B], the prefix of each row.
          prompts: int32 [B, S], what follows it.
          lengths: int32 [B], how many of these tokens to keep: all but the last.
          length: positions that are kept of a row, padding included.

        Returns:
          What `start` keeps of whole rows, and the last activations of what follows, [B, S, D].
          Whoever uses one of them has the compiler leave the other out.
        """
        before = prefixes.lengths[which]
        positions = before[:, None] + jnp.arange(prompts.shape[1])
        angles = self._angles(positions, positions.shape)
        heads, bias = self.shape.heads, self.shape.bias
        rows = Continuation(which, before, prompts.shape[1], length, heads, bias, angles)

        def layer(one: DecoderLayer, x: jax.Array, _: None, keys: jax.Array, values: jax.Array):
            own = one.self_attention.project_memory(one.pre_self_attention_layer_norm(x), angles)
            joined = rows.join(keys, own[0]), rows.join(values, own[1])
            return one(x, rows.attend_to(*joined), None), joined

        x = self.token_embedder(prompts)
        x, (keys, values) = self._scan(layer, x, None, *stack_layers(prefixes))
        mask = jnp.arange(length) < (before + lengths)[:, None]
        return prompt_cache(tuple(keys), tuple(values), mask), self.decoder.decoder_norm(x)

    def step(
        self,
        layers: list[DecoderLayer],
        prompt: PromptCache,
        cache: OutputCache,
        tokens: jax.Array,
        index: jax.Array,
    ) -> tuple[jax.Array, OutputCache]:
        """Scores what comes after position `index`: int32 [B, K] -> [B, K, D] to project.

        Position 0 is the prompt's last token, which is not in `prompt`.
        """
        x = self.token_embedder(tokens)
        positions = (prompt.lengths + index)[:, None]  # [B, 1]: the rows of a prompt are alike
        angles = self._angles(positions, positions.shape)
        keys, values = [], []
        for number, layer in enumerate(layers):
            memory = prompt.keys[number], prompt.values[number], prompt.mask
            own = cache.keys[number], cache.values[number]
            x, key, value = layer.step(x, memory, *own, index, angles)
            keys.append(key)
            values.append(value)
        return self.decoder.decoder_norm(x), OutputCache(tuple(keys), tuple(values))

    def _run(
        self,
        tokens: jax.Array,
        pattern: Pattern,
        dropout_key: jax.Array | None,
        collect: bool = False,
    ) -> tuple[jax.Array, Any]:
        """All layers over whole rows; `collect` also returns their keys and values [B, L, G, C]."""
        cfg = self.cfg
        attend = make_attend(pattern, self.shape.heads, cfg.dropout_rate, cfg.attention, cfg.dtype)

        def layer(one: DecoderLayer, x: jax.Array, key: jax.Array | None) -> Any:
            if not collect:
                return one(x, attend, key)
            y = one.pre_self_attention_layer_norm(x)
            return one(x, attend, key), one.self_attention.project_memory(y, pattern.angles)

        x = self.token_embedder(tokens)
        x = dropout(x, cfg.dropout_rate, fold_key(dropout_key, _INPUT), broadcast_axis=-2)
        return self._scan(layer, x, fold_key(dropout_key, _LAYERS))

    def _scan(self, layer: Callable[..., Any], x: jax.Array, key: jax.Array | None, *own: Any):
        cfg = self.cfg
        return scan_layers(
            self.decoder.layers,
            layer,
            x,
            key,
            *own,
            dtype=cfg.dtype,
            saved=SAVED_BY_REMAT_POLICY[cfg.remat_policy],
            scan=cfg.scan_layers,
        )

    def _angles(
        self, positions: jax.Array | None, shape: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array] | None:
        if self.shape.rotary is None:
            return None
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(shape[1]), shape)
        return self.shape.rotary.angles(positions)
