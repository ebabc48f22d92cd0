"""A stack of equal layers: scanned or written out, with what the backward pass keeps by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from t5x_ext.models import parameters
from t5x_ext.models.blocks.parameter import specs_of
from t5x_ext.models.nf4 import NF4
from t5x_ext.models.parameters import ParamSpec
from t5x_ext.partitioning import gather


def scan_layers(
    layers: Any,
    apply: Callable[..., Any],
    x: jax.Array,
    key: jax.Array | None,
    *own: Any,
    dtype: Any,
    saved: Sequence[str] | None = None,
    scan: bool = True,
) -> tuple[jax.Array, Any]:
    """Applies each layer of a stack in turn.

    Each layer's parameters are taken together from the mesh, and its kernels cast to the compute
    dtype, just before use.

    Args:
      layers: from `parameter.stacked`, bound to arrays.
      apply: (layer, x, the layer's dropout key, *the layer's part of `own`) -> x, or (x, what to
        collect).
      x: input of the first layer.
      key: dropout key of the stack; None switches dropout off.
      own: arrays with a leading axis of layers.
      dtype: compute dtype.
      saved: names given by `checkpoint_name` that the backward pass finds in memory; it computes
        the rest again. None keeps everything.
      scan: False writes the layers out in the compiled program.

    Returns:
      The last layer's x, and what `apply` collected with a leading axis of layers.
    """
    specs = specs_of(layers)
    graph, state = nnx.split(layers)
    stacked = nnx.to_pure_dict(state)
    num_layers = jax.tree.leaves(stacked)[0].shape[0]
    keys = None if key is None else jax.random.split(key, num_layers)

    def ready(spec: ParamSpec, value: Any) -> Any:
        if isinstance(value, NF4):
            return value.gather(spec.axes[1:])
        value = value.astype(dtype) if spec.is_kernel else value
        return gather(value, spec.axes[1:])

    def body(carry: jax.Array, xs: tuple[Any, ...]) -> tuple[jax.Array, Any]:
        values, layer_key, *of_layer = xs
        layer = nnx.merge(graph, parameters.map_specs(ready, specs, values))
        result = apply(layer, carry, layer_key, *of_layer)
        return result if isinstance(result, tuple) else (result, None)

    if saved is not None:
        policy = jax.checkpoint_policies.save_only_these_names(*saved)
        # A loop keeps the compiler from merging what is computed again with the first time.
        body = jax.checkpoint(body, policy=policy, prevent_cse=not scan)
    return jax.lax.scan(body, x, (stacked, keys, *own), unroll=not scan)
