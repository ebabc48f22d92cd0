"""LoRA next to a product with a frozen kernel; one adapter for all rows, or one for each.

Letters used in shapes: B rows, R rank, N adapters.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from t5x_ext.models import lora as configs
from t5x_ext.models import parameters
from t5x_ext.models.adapter_rows import current_rows
from t5x_ext.models.blocks.dropout import dropout, fold_key
from t5x_ext.models.blocks.linear import Linear
from t5x_ext.models.blocks.parameter import LAYERS, param
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.parameters import stacked_init

# Dropout keys of adapters begin here; a block's own places fold in smaller numbers.
_FIRST_SITE = 1000


class LoRA(nnx.Module):
    """s (x A) B: [B, ..., in] -> [B, ..., out] in the dtype of `x`.

    Args:
      a: A, [in, R], or [N, in, R] for an adapter a row; may be shared with other modules.
      b: B, [R, out], or [N, R, out].
      scale: s.
      rate: of dropout before A, with its own draw for every number, as in PEFT.
      site: tells dropout draws of one block apart; equal where A is shared.
    """

    def __init__(self, a: nnx.Param, b: nnx.Param, scale: float, rate: float, site: int):
        self.a, self.b = a, b
        self.scale, self.rate, self.site = scale, rate, site

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        a, b = self.a[...].astype(x.dtype), self.b[...].astype(x.dtype)
        x = dropout(x, self.rate, fold_key(key, self.site), broadcast_axis=None)
        if a.ndim == 2:
            rows = x.reshape(-1, x.shape[-1]) @ a @ (b * self.scale)
            return rows.reshape(*x.shape[:-1], -1)
        index = current_rows()
        if index is None:
            raise ValueError("a network with several adapters runs inside adapter_rows(index)")
        narrow = jnp.einsum("b...i,bir->b...r", x, a[index])
        return jnp.einsum("b...r,bro->b...o", narrow, b[index] * self.scale)


def attach(
    network: nnx.Module, config: ModelConfig, lora: configs.LoRA, num_adapters: int | None = None
) -> None:
    """Gives the linear layers of a network's stacks, built without arrays, their adapters.

    Projections that the family's own checkpoints hold as one share A, as PEFT has it: otherwise the
    adapter could not be written for them. It then is the first of them by name that A belongs to,
    and their ranks and alphas are equal.

    Args:
      network: changed in place.
      config: its config.
      lora: which layers, and the adapters' sizes.
      num_adapters: N, for a network that holds several adapters; None for one.

    Raises:
      ConfigError: a target matches nothing, or a pattern a part of what shares A.
    """
    linears = {
        "/".join(map(str, path)): node
        for path, node in nnx.iter_graph(network)
        if isinstance(node, Linear) and node.kernel.get_metadata()["axes"][0] == LAYERS
    }
    modules = {path: config.module_names(path) for path in sorted(linears)}
    lora.check_targets(modules)
    shared: dict[str, tuple[nnx.Param, int, tuple[str, ...]]] = {}
    for site, (path, names) in enumerate(modules.items(), _FIRST_SITE):
        if lora.matches(names):
            rank, linear = lora.rank_of(names), linears[path]
            group = config.fused_group(path) or path
            if group not in shared:
                shared[group] = _make_a(linear, rank, num_adapters), site, names
            a, first_site, first_names = shared[group]
            lora.check_fused(first_names, names)
            b = _make_b(linear, rank, num_adapters)
            linear.lora = LoRA(a, b, lora.scale_of(names), lora.dropout, first_site)


def _make_a(linear: Linear, rank: int, num_adapters: int | None) -> nnx.Param:
    (layers, width, _), (_, axis, _) = _kernel(linear)
    bound = 1 / math.sqrt(width)  # torch's kaiming_uniform with a = sqrt(5), as PEFT draws it

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return _adapter_param((layers, width, rank), (LAYERS, axis, None), init, num_adapters)


def _make_b(linear: Linear, rank: int, num_adapters: int | None) -> nnx.Param:
    (layers, _, width), (_, _, axis) = _kernel(linear)
    axes = (LAYERS, None, axis)
    return _adapter_param((layers, rank, width), axes, parameters.zeros, num_adapters)


def _kernel(linear: Linear) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return linear.kernel.get_value().shape, linear.kernel.get_metadata()["axes"]


def _adapter_param(
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    init: parameters.Initializer,
    num_adapters: int | None,
) -> nnx.Param:
    if num_adapters is not None:
        shape, axes = (shape[0], num_adapters, *shape[1:]), (axes[0], None, *axes[1:])
    return param(shape, axes, stacked_init(init), is_kernel=True, is_adapter=True)
