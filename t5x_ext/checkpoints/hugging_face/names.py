"""Which of transformers' tensors make up which of our parameters.

transformers keeps one tensor per layer, linear weights as [out, in]; we keep the layers of a
stack together, and kernels as [in, out]:

    encoder.block.<i>.layer.0.SelfAttention.q.weight  [num_heads * d_kv, d_model]  for every i
    encoder/layers/attention/query/kernel             [num_layers, d_model, num_heads * d_kv]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from t5x_ext.models import network, parameters
from t5x_ext.models.network import T5Config
from t5x_ext.models.parameters import ParamSpec

# The embedding, under any of its names; files may hold it several times.
EMBEDDING = "shared.weight"
EMBEDDING_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEAD = "lm_head.weight"
# In the released T5 1.0 files, but in no forward pass: cross-attention has no position bias.
UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

_WHOLE = {
    "token_embedder/embedding": EMBEDDING,
    "encoder/relpos_bias/rel_embedding": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "decoder/relpos_bias/rel_embedding": (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    "decoder/logits_dense/kernel": HEAD,
}
_SUBLAYERS = {
    "encoder": {
        "pre_attention_layer_norm": "layer.0.layer_norm",
        "attention": "layer.0.SelfAttention",
        "pre_mlp_layer_norm": "layer.1.layer_norm",
        "mlp": "layer.1.DenseReluDense",
    },
    "decoder": {
        "pre_self_attention_layer_norm": "layer.0.layer_norm",
        "self_attention": "layer.0.SelfAttention",
        "pre_cross_attention_layer_norm": "layer.1.layer_norm",
        "encoder_decoder_attention": "layer.1.EncDecAttention",
        "pre_mlp_layer_norm": "layer.2.layer_norm",
        "mlp": "layer.2.DenseReluDense",
    },
}
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}

# Our logical axes, as config.json's fields name their lengths.
_FIELDS = {
    "embed": "d_model",
    "heads": "num_heads",
    "joined_kv": "num_heads * d_kv",
    "mlp": "d_ff",
    "relpos_buckets": "relative_attention_num_buckets",
    "vocab": "vocab_size",
}


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one of our parameters lies in transformers' layout.

    Attributes:
      names: of transformers' tensors: one per layer, or one.
      shape: of each of them.
      fields: what config.json calls the lengths in `shape`.
      stacked: whether ours has a leading layers axis.
      transposed: whether ours has the two axes of a tensor the other way round.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    fields: tuple[str, ...]
    stacked: bool
    transposed: bool


def placements(cfg: T5Config) -> dict[str, Placement]:
    """A placement for every parameter of a model, by our name; transformers' are all distinct."""
    specs = jax.tree_util.tree_leaves_with_path(
        network.Transformer(cfg).specs, is_leaf=lambda x: isinstance(x, ParamSpec)
    )
    return {
        parameters.path_name(path): _place(parameters.path_name(path), spec) for path, spec in specs
    }


def _place(name: str, spec: ParamSpec) -> Placement:
    stacked = spec.axes[0] == "layers"
    shape, axes = (spec.shape[1:], spec.axes[1:]) if stacked else (spec.shape, spec.axes)
    transposed = len(shape) == 2 and name != "token_embedder/embedding"
    if transposed:
        shape, axes = shape[::-1], axes[::-1]
    fields = tuple(_FIELDS[str(axis)] for axis in axes)
    names = _layer_names(name, spec.shape[0]) if stacked else (_WHOLE[name],)
    return Placement(names, shape, fields, stacked, transposed)


def _layer_names(name: str, num_layers: int) -> tuple[str, ...]:
    """'decoder/layers/mlp/wo/kernel' -> 'decoder.block.<i>.layer.2.DenseReluDense.wo.weight'."""
    stack, _, sublayer, *inner = name.split("/")
    parts = [_SUBLAYERS[stack][sublayer]]
    if len(inner) == 2:  # (projection, 'kernel'); a norm has only 'scale'
        parts.append(_PROJECTIONS.get(inner[0], inner[0]))
    return tuple(f"{stack}.block.{i}.{'.'.join(parts)}.weight" for i in range(num_layers))


def describe_mismatch(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Placement]
) -> str | None:
    """Compares the tensors of a file with those of a model, by name and shape.

    Args:
        found: Shape of every tensor of transformers' in the files.
        wanted: From `placements`.

    Returns:
        What is missing, unknown or of another shape, in one line; None if all is well.
    """
    expected = {name: placement for placement in wanted.values() for name in placement.names}

    def wrong_shape(name: str, placement: Placement) -> str:
        needed = ", ".join(
            f"{field}={size}" for field, size in zip(placement.fields, placement.shape, strict=True)
        )
        return f"{name} is {list(found[name])}, config.json needs [{needed}]"

    def shorten(names: list[str], most: int) -> str:
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return ", ".join(names[:most]) + more

    problems = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "of another shape": [
            wrong_shape(name, placement)
            for name, placement in expected.items()
            if name in found and found[name] != placement.shape
        ],
    }
    most = {"missing": 4, "unknown": 4, "of another shape": 2}  # named; the rest are counted
    listed = [
        f"{len(names)} {kind}: {shorten(names, most[kind])}"
        for kind, names in problems.items()
        if names
    ]
    return "; ".join(listed) or None
