"""Adapters made part of the parameters that they were tuned over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from t5x_ext.models.config import ModelConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.parameters import Params


def merge(config: ModelConfig, lora: LoRA, params: Params) -> Params:
    """W + s A B in the place of W.

    Args:
      config: of the network.
      lora: its adapters.
      params: all its parameters, in the tree of `Network.specs`; NumPy or JAX arrays.

    Returns:
      The parameters of the same network without adapters. Sums are made in float32 and have the
      dtype of W.
    """
    shared: dict[str, Any] = {}
    _find_shared(config, params, "", shared)

    def visit(tree: Mapping[str, Any], path: str) -> Params:
        merged: Params = {}
        for name, inner in tree.items():
            where = f"{path}/{name}" if path else name
            if name == "lora":
                continue
            merged[name] = visit(inner, where) if isinstance(inner, Mapping) else inner
        if "lora" in tree:
            a = tree["lora"].get("a", shared.get(config.fused_group(path) or ""))
            delta = jnp.asarray(a, jnp.float32) @ jnp.asarray(tree["lora"]["b"], jnp.float32)
            kernel = jnp.asarray(tree["kernel"])
            scaled = lora.scale_of(config.module_names(path)) * delta
            merged["kernel"] = (kernel.astype(jnp.float32) + scaled).astype(kernel.dtype)
        return merged

    return visit(params, "")


def _find_shared(
    config: ModelConfig, tree: Mapping[str, Any], path: str, found: dict[str, Any]
) -> None:
    """Collects the A of each group of projections that share one."""
    for name, inner in tree.items():
        if name == "lora":
            group = config.fused_group(path)
            if group is not None and "a" in inner:
                found[group] = inner["a"]
        elif isinstance(inner, Mapping):
            _find_shared(config, inner, f"{path}/{name}" if path else name, found)
