"""Adapters made part of the kernels that they were tuned over: W + s A B in the place of W."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from t5x_ext.models.config import ModelConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.parameters import Params, path_name


class Product(NamedTuple):
    """s A B, which an adapter adds to a kernel, as its factors; NumPy or JAX arrays, float32.

    Attributes:
      a: [..., in, rank].
      b: [..., rank, out]; the scale s is in it.
    """

    a: Any
    b: Any

    def of_layer(self, layer: int, of_in: slice, of_out: slice) -> Product:
        """What belongs to a part [in, out] of one layer's kernel."""
        return Product(self.a[layer][of_in], self.b[layer][:, of_out])

    def add_to(self, kernel: Any) -> Any:
        """W + s A B in float32; `kernel` is W, [..., in, out] in any dtype."""
        return kernel.astype("float32") + self.a @ self.b


def find_products(config: ModelConfig, lora: LoRA, adapter: Params) -> dict[str, Product]:
    """What an adapter adds to each kernel.

    Args:
      config: of the network.
      lora: its adapters.
      adapter: their parameters, in the tree of `Network.trainable`.

    Returns:
      A product for each kernel that has one, by the kernel's name. Projections that share A have
      it in each of their products.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(adapter)
    leaves = {path_name(path): leaf.astype("float32") for path, leaf in paths}
    modules = [name.removesuffix("/lora/b") for name in leaves if name.endswith("/lora/b")]
    group = {module: config.fused_group(module) or module for module in modules}
    a_of = {group[m]: leaves[f"{m}/lora/a"] for m in modules if f"{m}/lora/a" in leaves}
    return {
        f"{module}/kernel": Product(
            a_of[group[module]],
            leaves[f"{module}/lora/b"] * lora.scale_of(config.module_names(module)),
        )
        for module in modules
    }


def merge(config: ModelConfig, lora: LoRA, base: Params, adapter: Params) -> Params:
    """The parameters of the same network without adapters.

    Args:
      config: of the network.
      lora: its adapters.
      base: parameters under them, in the tree of `Network.frozen`; NumPy or JAX arrays.
      adapter: see `find_products`.

    Returns:
      The tree of `base`. Sums are made in float32 and have the dtype of W.
    """
    products = find_products(config, lora, adapter)

    def one(path: Any, leaf: Any) -> Any:
        product = products.get(path_name(path))
        return leaf if product is None else product.add_to(leaf).astype(leaf.dtype)

    with jax.default_matmul_precision("highest"):  # accelerators round factors to bfloat16
        return jax.tree_util.tree_map_with_path(one, base)
