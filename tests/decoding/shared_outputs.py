"""Tiny models, with and without adapters, and prompts that share outputs."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from t5x_ext import Model
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.mpt import MptConfig
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "specialization" / "goldens"
RNG = np.random.default_rng(0)
CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=64, emb_dim=32, num_layers=2, head_dim=8, mlp_dim=48, num_heads=4, num_kv_heads=2
    ),
    "mpt": MptConfig(
        vocab_size=64, emb_dim=32, num_layers=2, head_dim=8, mlp_dim=48, num_heads=4, num_kv_heads=4
    ),
    "falcon": FalconConfig(
        vocab_size=64, emb_dim=32, num_layers=2, head_dim=8, mlp_dim=48, num_heads=4, num_kv_heads=1
    ),
    "t5": T5Config(
        vocab_size=64,
        emb_dim=32,
        num_heads=4,
        head_dim=8,
        num_encoder_layers=1,
        num_decoder_layers=2,
        mlp_dim=48,
    ),
}
# Every family; the two that share most of their code with LLaMA run in `make test-slow`.
FAMILIES = [
    "llama",
    "t5",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("mpt", "falcon")),
]
# Outputs of 1, 3, 2, ... contexts, of 1 to 20 tokens each.
SIZES = (1, 3, 2, 3, 1, 3, 2, 3, 3)
CONTEXTS = [[RNG.integers(2, 64, RNG.integers(1, 20)).tolist() for _ in range(k)] for k in SIZES]
WEIGHTS = [(w / w.sum()).tolist() for w in (RNG.random(k) + 0.1 for k in SIZES)]
EOS = (1, 7)


@functools.cache  # what it compiles serves all tests of a file
def make(family: str, partitioner: PjitPartitioner | None = None) -> Model:
    network = Transformer(CONFIGS[family])
    # Sharper than random weights are, so that rows end at different places.
    params = jax.tree.map(lambda x: x * (1.8 if x.ndim > 1 else 1), network.init(jax.random.key(0)))
    partitioner = partitioner or PjitPartitioner(devices=jax.devices()[:1])
    return Model(CONFIGS[family], params, None, partitioner)


def golden_rows(name: str) -> list[dict[str, Any]]:
    if not GOLDENS.is_dir():
        pytest.skip(f"goldens of marginalised decoding not found at {GOLDENS}")
    return [json.loads(line) for line in (GOLDENS / name).read_text().splitlines()]


def retrieval_weights(scores: Sequence[float], mode: str) -> list[float]:
    values = np.array(scores, np.float64)
    if mode == "softmax":
        values = np.exp(values - values.max())
    elif mode == "uniform":
        values = np.ones(len(values))
    else:
        values = np.maximum(values, 0)
    return (values / values.sum()).tolist()


NAMES = ("bio", "fin")
LORA = LoRA(rank=2, alpha=4.0)


@functools.cache
def with_adapters(family: str, partitioner: PjitPartitioner | None = None) -> Model:
    """A model with two adapters of random A and B; adapter 0 is none."""
    base = make(family, partitioner)
    network = Transformer(base.config, LORA, len(NAMES) + 1)

    def fill(path: tuple, spec, mine) -> jax.Array:
        if mine is not None:
            return mine
        key = jax.random.fold_in(jax.random.key(7), len(jax.tree_util.keystr(path)))
        made = 0.3 * jax.random.normal(key, spec.shape)
        return made.at[:, 0].set(0.0)  # [layers, adapters, ...]

    def merge(specs: Params, mine: Params | None, path: tuple = ()) -> Params:
        if not isinstance(specs, dict):
            return fill(path, specs, mine)
        mine = mine or {}
        return {
            name: merge(spec, mine.get(name), (*path, jax.tree_util.DictKey(name)))
            for name, spec in specs.items()
        }

    params = merge(network.specs, base.params)
    return dataclasses.replace(base, params=params, adapters=NAMES, lora=LORA)


def merged(model: Model, number: int) -> Model:
    """The same network with one adapter added to its kernels."""

    def merge(params: Params) -> Params:
        found = {}
        for name, value in params.items():
            if not isinstance(value, dict):
                found[name] = value
            elif "lora" in value:
                # Queries and values that are fused with keys share their A.
                of_a = value if "a" in value["lora"] else params["key"]
                a, b = of_a["lora"]["a"][:, number], value["lora"]["b"][:, number]
                found[name] = {"kernel": value["kernel"] + LORA.alpha / LORA.rank * (a @ b)}
            else:
                found[name] = merge(value)
        return found

    return dataclasses.replace(model, params=merge(model.params), adapters=(), lora=None)
