"""Where T5X's networks keep each of our parameters, under which names and in which shapes.

Our `encoder/layers/attention/query/kernel` [layers, embed, heads * head_dim] is

    t5                   encoder/layers_<i>/attention/query/kernel  [embed, heads * head_dim]
    scalable_t5, scanned encoder/encoder/attention/query/kernel     [embed, layers, heads, head_dim]
    scalable_t5          encoder/layers_<i>/attention/query/kernel  [embed, heads, head_dim]

after examples/t5 and examples/scalable_t5 (`scan_layers`, `param_scan_axis` = 1) of
google-research/t5x. scalable_t5 has a table of relative positions in every layer, t5 one in each
stack. Our model is either: where all tables of a stack are equal, one table stands for them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from t5x_ext.checkpoints import trees
from t5x_ext.errors import ConfigError
from t5x_ext.models import network
from t5x_ext.models.network import T5Config
from t5x_ext.models.parameters import ParamSpec

Shape = tuple[int, ...]

LAYER_AXIS = 1  # of a scanned parameter

_STACKS = ("encoder", "decoder")
_BIAS = "relpos_bias/rel_embedding"
_JOINED = "joined_kv"  # our axis of heads times head_dim


@dataclasses.dataclass(frozen=True)
class Network:
    """Which of T5X's networks a checkpoint is of.

    Attributes:
      scanned: the layers of a stack are one parameter.
      split_heads: attention kernels have an axis for heads and one for head_dim.
      bias_per_layer: each layer has its own table of relative positions.
    """

    scanned: bool
    split_heads: bool
    bias_per_layer: bool


def network_for(cfg: T5Config, scanned: bool) -> Network:
    """The network of T5X's that computes what our model does.

    Args:
        cfg: The model. With a position table per layer only scalable_t5 will do.
        scanned: The layers of a stack are one parameter, which only scalable_t5 has.
    """
    scalable = scanned or cfg.position_table_per_layer
    return Network(scanned, split_heads=scalable, bias_per_layer=scalable)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one of our parameters is.

    Attributes:
      names: of its parts: one for each layer, or a single one.
      layer_shape: shape of a layer in T5X; of all of it where there are no layers.
      num_layers: None if there are no layers.
      scanned: the layers are on `LAYER_AXIS` of a single part.
      ours: shape of our parameter.
      shared: ours has no layers axis: the layers must be equal.
      split_axis: where a layer of ours has one axis for `layer_shape`'s axes heads and head_dim.
    """

    names: tuple[str, ...]
    layer_shape: Shape
    ours: Shape
    num_layers: int | None = None
    scanned: bool = False
    shared: bool = False
    split_axis: int | None = None

    @property
    def shape(self) -> Shape:
        """Shape of each part."""
        if not self.scanned:
            return self.layer_shape
        assert self.num_layers is not None  # where there are none, nothing is scanned
        return (*self.layer_shape[:LAYER_AXIS], self.num_layers, *self.layer_shape[LAYER_AXIS:])


def places(cfg: T5Config, kind: Network) -> dict[str, Place]:
    """Finds a place for every parameter of a model, by our name."""
    specs = trees.named_leaves(network.Transformer(cfg).specs)
    return {name: _place(name, spec, cfg, kind) for name, spec in specs.items()}


def _place(name: str, spec: ParamSpec, cfg: T5Config, kind: Network) -> Place:
    stack, _, rest = name.partition("/")
    per_layer = spec.axes[0] == "layers"
    shared = rest == _BIAS and kind.bias_per_layer
    if not (per_layer or shared):
        return Place((name,), spec.shape, spec.shape)
    depth = cfg.num_encoder_layers if stack == "encoder" else cfg.num_decoder_layers
    shape, axes = (spec.shape[1:], spec.axes[1:]) if per_layer else (spec.shape, spec.axes)
    at = axes.index(_JOINED) if kind.split_heads and _JOINED in axes else None
    if at is not None:
        shape = (*shape[:at], cfg.num_heads, cfg.head_dim, *shape[at + 1 :])
    rest = rest.removeprefix("layers/")
    names = (
        (f"{stack}/{stack}/{rest}",)
        if kind.scanned
        else tuple(f"{stack}/layers_{layer}/{rest}" for layer in range(depth))
    )
    return Place(names, shape, spec.shape, depth, kind.scanned, shared, at)


def recognise(shapes: Mapping[str, Shape]) -> tuple[Network, T5Config]:
    """Tells the network and the size of its model from the names and shapes of its parameters.

    What shapes do not say is as in the published models: gated activations are ('gelu', 'linear')
    (1.1), a single one is 'relu' (1.0). Without an output kernel the output is tied to the
    embedding. Whether layers differ in their position tables only values say: the model has one
    for each stack here.

    Raises:
        ConfigError: If a parameter that tells is missing or of another rank.
    """
    scanned = any(name.startswith("encoder/encoder/") for name in shapes)
    encoder, decoder = (f"{stack}/{stack if scanned else 'layers_0'}" for stack in _STACKS)
    per_layer = f"{encoder}/{_BIAS}" in shapes
    gated = f"{encoder}/mlp/wi_0/kernel" in shapes

    def shape_of(name: str, *ranks: int, layers: bool = False) -> Shape:
        if name not in shapes:
            raise ConfigError(f"parameter {name} is missing")
        found = shapes[name]
        if len(found) - (layers and scanned) not in ranks:
            raise ConfigError(f"parameter {name}: its shape {found} is not one of T5X's t5")
        return found[:LAYER_AXIS] + found[LAYER_AXIS + 1 :] if layers and scanned else found

    def depth(stack: str, first: str) -> int:
        norm = f"{first}/pre_mlp_layer_norm/scale"
        shape_of(norm, 1, layers=True)
        if scanned:
            return shapes[norm][LAYER_AXIS]
        layers = (re.match(rf"{stack}/layers_(\d+)/", name) for name in shapes)
        return 1 + max(int(match[1]) for match in layers if match)

    vocab_size, emb_dim = shape_of("token_embedder/embedding", 2)
    bias = f"{encoder}/{_BIAS}" if per_layer else f"encoder/{_BIAS}"
    heads = shape_of(bias, 2, layers=per_layer)[0]
    query = shape_of(f"{encoder}/attention/query/kernel", 2, 3, layers=True)
    mlp = shape_of(f"{encoder}/mlp/{'wi_0' if gated else 'wi'}/kernel", 2, layers=True)
    config = T5Config(
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        num_heads=heads,
        num_encoder_layers=depth("encoder", encoder),
        num_decoder_layers=depth("decoder", decoder),
        head_dim=math.prod(query[1:]) // heads,
        mlp_dim=mlp[1],
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
    )
    return Network(scanned, split_heads=len(query) == 3, bias_per_layer=per_layer), config
