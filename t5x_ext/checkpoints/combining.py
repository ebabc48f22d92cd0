"""Adapters of one base combined with weights into one: the `cat` of PEFT's `add_weighted_adapter`.

A of the result is that of all adapters next to each other, and so is B, times weight and scale:

    sum_i w_i s_i (x A_i) B_i = (x [A_1 A_2 ..]) [w_1 s_1 B_1; w_2 s_2 B_2; ..]

So the result adds to each kernel exactly the weighted sum of what they add, and is an adapter like
any other, of the sum of their ranks. (PEFT's has another scale where the first adapter has rsLoRA.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from t5x_ext.checkpoints import trees
from t5x_ext.checkpoints.adapters import Adapter, bidirectional_in, open_adapter
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.params import hash_params
from t5x_ext.checkpoints.sources import BIDIRECTIONAL, LazyTensor, Source
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.merging import find_products
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import ParamSpec, path_name


def combine(adapters: Sequence[Adapter], weights: Sequence[float], config: ModelConfig) -> Adapter:
    """The weighted sum of adapters, which may differ in rank, alpha, rsLoRA and targets.

    Args:
      adapters: two or more over one base. One that does not say which counts as over the others'.
      weights: one for each, of any sign.
      config: of the base.

    Returns:
      An adapter with a scale of 1. A module's rank is the sum of theirs that have it, and of those
      that have a part of the tensor that it is stored in. Prompt, quantisation of the base and
      dropout are what all agree on; else they are not stated, and there is no dropout.

    Raises:
      ConfigError: there are fewer than two adapters, or not as many weights; a weight or a product
        is not finite; or two adapters are of different bases.
    """
    _check(adapters, weights)
    products = [
        find_products(config, adapter.lora, jax.tree.map(np.asarray, adapter.params))
        for adapter in adapters
    ]

    def group(module: str) -> str:
        return config.fused_group(module) or module

    shared = [{group(_module(name)): p.a for name, p in each.items()} for each in products]
    modules = sorted({_module(name) for each in products for name in each})
    ranks = {
        module: sum(each[group(module)].shape[-1] for each in shared if group(module) in each)
        for module in modules
    }
    lora = _lora(ranks, _agreed([adapter.lora.dropout for adapter in adapters]) or 0.0)

    def fill(path: Any, spec: ParamSpec) -> np.ndarray:
        module, _, part = path_name(path).rpartition("/lora/")
        together, first = np.zeros(spec.shape, np.float32), 0
        for adapter, weight, own, a in zip(adapters, weights, products, shared, strict=True):
            if group(module) not in a:
                continue
            last = first + a[group(module)].shape[-1]
            if part == "a":
                together[:, :, first:last] = a[group(module)]
            elif f"{module}/kernel" in own:
                with np.errstate(over="ignore", invalid="ignore"):
                    together[:, first:last] = weight * own[f"{module}/kernel"].b
                if not np.isfinite(together).all():
                    raise ConfigError(
                        f"{adapter.path}: {weight:g} times its {module} is not finite in float32"
                    )
            first = last
        return together

    specs = Transformer(config, lora).trainable
    is_spec = lambda x: isinstance(x, ParamSpec)  # noqa: E731
    based = next((each for each in adapters if each.base_path is not None), adapters[0])
    return Adapter(
        " + ".join(f"{w:g} * {each.path}" for w, each in zip(weights, adapters, strict=True)),
        lora,
        jax.tree_util.tree_map_with_path(fill, specs, is_leaf=is_spec),
        based.base_path,
        next((each.base_fingerprint for each in adapters if each.base_fingerprint), None),
        max(each.step for each in adapters),
        _agreed([each.prompt for each in adapters]),
        _agreed([each.base_quantization for each in adapters]),
    )


def open_combined(
    base: Source, paths: Sequence[str], weights: Sequence[float] | None = None
) -> Adapter:
    """Reads adapters over a base and combines them, to be written for PEFT.

    Args:
      base: the base; it states its config.
      paths: see `open_adapter`.
      weights: see `combine`; None is 1/n for each of n.

    Raises:
      ConfigError: see `combine`; or an adapter cannot be read, is of another base, or was tuned
        with prompts that PEFT reads otherwise.
    """
    assert base.config is not None
    adapters = [open_adapter(path, base.config) for path in paths]
    fingerprint = fingerprint_base(base)
    for adapter in adapters:
        adapter.check_base(fingerprint, base.path)
        if bidirectional_in(base, adapter.path):
            raise ConfigError(
                f"{adapter.path}: tuned with {BIDIRECTIONAL}, and PEFT, for which a combination is "
                "written, reads prompts from left to right; allowed: adapters tuned without"
            )
    if weights is None:
        weights = [1 / len(adapters) for _ in adapters]
    return combine(adapters, weights, base.config)


def as_source(adapter: Adapter, base: Source) -> Source:
    """A combined adapter as the checkpoint that it could have been read from."""
    assert base.config is not None
    leaves = trees.named_leaves(adapter.params)
    return Source(
        kind="combined",
        path=adapter.path,
        tensors={
            name: LazyTensor(leaf.shape, leaf.dtype, leaf.__getitem__)
            for name, leaf in leaves.items()
        },
        config=base.config,
        step=adapter.step,
        digest_fn=lambda: hash_params(leaves),
        # `open_combined` takes no others; over a base that is a prefix model, that has to be said.
        meta={} if base.config.has_encoder else {BIDIRECTIONAL: False},
    )


def _check(adapters: Sequence[Adapter], weights: Sequence[float]) -> None:
    if len(adapters) < 2:
        shown = "".join(adapter.path for adapter in adapters) or "none"
        raise ConfigError(f"combine: {shown}; allowed: two adapters or more")
    if len(weights) != len(adapters):
        raise ConfigError(
            f"weights: {len(weights)} for {len(adapters)} adapters; allowed: one for each"
        )
    for weight in weights:
        if not math.isfinite(weight):
            raise ConfigError(f"weights: {weight}; allowed: finite numbers")
    known = [adapter for adapter in adapters if adapter.base_fingerprint is not None]
    for adapter in known[1:]:
        assert known[0].base_fingerprint is not None
        adapter.check_base(known[0].base_fingerprint, f"the base of {known[0].path}")


def _lora(ranks: dict[str, int], dropout: float) -> LoRA:
    """With a scale of 1 everywhere; the largest rank is the one that is not in a pattern."""
    rank = max(ranks.values())
    other = {module: own for module, own in ranks.items() if own != rank}
    return LoRA(
        rank,
        float(rank),
        dropout,
        targets=tuple(ranks),
        rank_pattern=other,
        alpha_pattern={module: float(own) for module, own in other.items()},
    )


def _module(kernel: str) -> str:
    return kernel.removesuffix("/kernel")


def _agreed(values: Sequence[Any]) -> Any:
    """What all say; None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None
