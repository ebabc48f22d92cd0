"""How long the stages of a run take and what they need in memory, by a roofline.

    reading, tuning    FLOPs of the products / what the machine reaches
    writing            a step a token: the parameters' and caches' bytes / what the machine reaches,
                       or the FLOPs of the rows, whichever takes longer

Passages are rows of one batch, and so is an amateur: they add to what is read and to the
caches, not to the number of steps. Loading and compiling are left out. `plan` compiles the tuning
step itself for a machine, and is nearer for that.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5x_ext.generation.forecast import Work
from t5x_ext.generation.pipeline import Pipeline
from t5x_ext.models.lora import LoRA
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import count_params
from t5x_ext.planning.devices import Machine

# What programs like these reach of the vendors' figures.
_FLOPS_SHARE, _BANDWIDTH_SHARE = 0.4, 0.6
_NF4_BYTES = 4.127 / 8  # a weight
# Outputs that are decoded together wait for the longest: so much longer than the mean is it.
_LONGEST_TO_MEAN = 2.0
_TRIALS = 3


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a machine reaches.

    Attributes:
        name: of the machine.
        flops_per_sec: of large products.
        bytes_per_sec: of parameters, in products with few rows.
    """

    name: str
    flops_per_sec: float
    bytes_per_sec: float

    @classmethod
    def of(cls, machine: Machine) -> Speed:
        """By the vendor's figures."""
        device = machine.device
        return cls(
            machine.name,
            _FLOPS_SHARE * machine.count * device.flops_per_sec,
            _BANDWIDTH_SHARE * machine.count * device.hbm_bytes_per_sec,
        )

    @classmethod
    def here(cls, emb_dim: int, mlp_dim: int, rows: int, dtype: str) -> Speed:
        """Measured on this machine in a second, by products of a layer's shape.

        Args:
            emb_dim: width of the model.
            mlp_dim: width of its feed-forward blocks.
            rows: that are decoded together.
            dtype: of the products.
        """
        many = 512
        kernels = jnp.ones((8, emb_dim, mlp_dim), dtype)

        @jax.jit
        def products(x: jax.Array) -> jax.Array:
            return jnp.einsum("bd,kdm->kbm", x, kernels)

        def secs(count: int) -> float:
            x = jnp.ones((count, emb_dim), dtype)
            return min(_timed(lambda: products(x).block_until_ready()) for _ in range(_TRIALS + 1))

        flops = 2 * kernels.size * many / secs(many)
        return cls(jax.devices()[0].device_kind, flops, kernels.nbytes / secs(rows))


def _timed(call: Callable[[], Any]) -> float:
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one model on one machine.

    Attributes:
        config: of the model, a decoder-only one.
        speed: of the machine.
        batch_size: texts written at a time.
        train_batch_size: rows of a tuning step.
        quantization: of the model's kernels.
        lora: of the adapter.
    """

    config: Any
    speed: Speed
    batch_size: int
    train_batch_size: int
    quantization: str | None
    lora: LoRA

    def secs(self, work: Work) -> float:
        """Of a stage."""
        if not work.prompts:
            return 0.0
        length = max(1, round(work.read / work.prompts))
        reading = work.prompts * self.config.forward_flops(1, length, 0) / self.speed.flops_per_sec
        if work.is_tuning:
            # Kernels are frozen: the backward pass costs one forward pass, and another is made
            # for what was not kept.
            return (2 if self.config.remat_policy == "none" else 3) * reading
        rows = self.batch_size * work.prompts / work.outputs
        steps = min(work.longest, _LONGEST_TO_MEAN * work.written / work.outputs)
        a_token = self.config.forward_flops(1, 1, 0)
        by_flops = rows * a_token / self.speed.flops_per_sec
        by_bytes = (self.params_bytes + rows * length * self._position_bytes) / (
            self.speed.bytes_per_sec
        )
        batches = math.ceil(work.outputs / self.batch_size)
        return reading + batches * steps * max(by_flops, by_bytes)

    def memory_bytes(self, work: Work) -> float:
        """Of a stage, without what a step holds for a moment."""
        length = work.read / max(work.prompts, 1) + work.longest
        if work.is_tuning:
            network = Transformer(self.config, self.lora)
            adapter = count_params(network.trainable)
            # Values, gradients and the optimizer's two moments, in float32; of every layer its
            # input is kept.
            kept = self.train_batch_size * length * self.config.num_layers * self.config.emb_dim
            return self.params_bytes + 16 * adapter + 4 * kept
        rows = self.batch_size * work.prompts / max(work.outputs, 1)
        return self.params_bytes + rows * length * self._position_bytes

    @property
    def params_bytes(self) -> float:
        """Of the model alone."""
        config = self.config
        all_params = count_params(Transformer(config).specs)
        size = jnp.dtype(config.dtype).itemsize
        if self.quantization is None:
            return all_params * size
        tables = 1 if config.logits_via_embedding else 2
        kept = tables * config.vocab_size * config.emb_dim
        return (all_params - kept) * _NF4_BYTES + kept * size

    @property
    def _position_bytes(self) -> int:
        return int(self.config.cache_shape.bytes_per_position)


def estimate_costs(pipeline: Pipeline, machine: Machine | None) -> Costs:
    """The costs of a run.

    Args:
        pipeline: the run.
        machine: what it would run on; None is this machine, measured.
    """
    base, tuning = pipeline.base, pipeline.tuning
    config: Any = base.describe().config.replace(dtype=base.dtype, remat_policy=tuning.remat_policy)
    if machine is None:
        rows = pipeline.round.batch_size
        speed = Speed.here(config.emb_dim, config.mlp_dim, rows, base.dtype)
    else:
        speed = Speed.of(machine)
    return Costs(
        config,
        speed,
        pipeline.round.batch_size,
        tuning.batch_size,
        base.quantization,
        tuning.lora,
    )
