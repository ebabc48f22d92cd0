"""A network: a Flax module, and what is known of it before it exists.

The rest of the package never sees how a family is built. It asks a `Network` for the declarations
of its parameters (`specs`), for random ones (`init`), and for the module bound to given ones
(`bind`), inside the function that is traced. Parameters stay a nested dictionary of arrays
throughout: state, optimizer, checkpoints, experts and plans handle ordinary pytrees.

A module has

    hidden_states(batch, dropout_key)   the last activations for a converted batch, [B, T, D]; its
                                        segment ids are 0 at padding
    output()                            the output projection [D, V] in the compute dtype, and the
                                        factor of its products; (None, 1.0) where `hidden_states`
                                        gives scores already, [B, T, V]

and, to be decoded with cached keys and values (see `generation`; `recomputing` does without),

    start(layers, prompts, mask)        what is kept of the prompts; without an encoder,
                                        start(prompts, mask), and start(prompts, mask, prefix)
                                        where prompts see themselves whole
    step(layers, prompt, cache, tokens, index)   the activations after one more position

and, for prompts that begin alike to share what is kept of that,

    start_after(prefixes, which, prompts, lengths, length)   what `start` keeps of them, and their
                                        own last activations, see `decoder_only_network`
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import re
from typing import Any

import jax

from t5x_ext import bounds
from t5x_ext.errors import ConfigError
from t5x_ext.models import parameters
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.parameters import Params
from t5x_ext.models.t5_config import T5Config

QUANTIZATIONS = (None, "nf4")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

__all__ = ["Network", "T5Config", "Transformer"]


class Network(abc.ABC):
    """What the rest of the package asks of a network, whatever it is made with.

    Attributes:
      config: shape and numerics.
      lora: adapters on its linear layers, the only part that is then trained; None for none.
      num_adapters: how many adapters it holds, one of which each row of a batch uses (see
        `models.adapter_rows`); None for one, used by all rows.
      quantization: 'nf4' holds the kernels of its layers in four bits a number, see `nf4`; None
        for not. They cannot be trained.
    """

    config: ModelConfig
    lora: LoRA | None = None
    num_adapters: int | None = None
    quantization: str | None = None

    @abc.abstractmethod
    def replace(self, config: ModelConfig) -> Network:
        """The same network with another config."""

    @property
    @abc.abstractmethod
    def specs(self) -> Params:
        """The tree of `ParamSpec`."""

    @property
    @abc.abstractmethod
    def has_cache(self) -> bool:
        """Whether the module has `start` and `step`."""

    @property
    def continues_prompts(self) -> bool:
        """Whether the module has `start_after`, and its config lets it compute that."""
        return False

    @abc.abstractmethod
    def bind(self, params: Params) -> Any:
        """The module with `params` in place; to be called inside a traced function only."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Params:
        """Random parameters in float32."""

    @property
    def has_dropout(self) -> bool:
        """Whether training draws any."""
        return self.config.dropout_rate > 0

    @property
    def fingerprint(self) -> str:
        """What determines outputs beside `config` and parameters, such as heads; '' for nothing."""
        return ""

    @functools.cached_property
    def trainable(self) -> Params:
        """The part of `specs` that training changes: the adapters, or all without any."""
        return parameters.trainable(self.specs)

    @functools.cached_property
    def frozen(self) -> Params:
        """The part of `specs` that training keeps; empty without adapters."""
        return parameters.frozen(self.specs)

    @property
    def base(self) -> Network:
        """The same network without adapters, not quantised."""
        return self

    def train_flops(self, rows: int, input_length: int, target_length: int) -> int | None:
        """FLOPs of one train step; see `ModelConfig.forward_flops`. None: unknown.

        Every product counts once forward and twice backward. One with a frozen kernel has no
        gradient for that; an adapter's own products, a few in a hundred, are left out.
        """
        forward = self.config.forward_flops(rows, input_length, target_length)
        return None if forward is None else forward * (2 if self.frozen else 3)

    def init_trainable(self, key: jax.Array) -> Params:
        """Random values of `trainable`, those that `init` gives them."""
        return parameters.init_params(self.trainable, key) if self.frozen else self.init(key)


def fingerprint_of(module: object) -> str:
    """A hash of what `repr` tells of a module; the addresses of its functions are left out."""
    return hashlib.sha256(_ADDRESS.sub("", repr(module)).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Transformer(Network):
    """The network as gin binds it: `network.Transformer.config = @network.T5Config()`.

    The class of `config` is the family. See `Network` for the attributes.
    """

    config: ModelConfig
    lora: LoRA | None = None
    num_adapters: int | None = None
    quantization: str | None = None

    def __post_init__(self) -> None:
        if self.quantization not in QUANTIZATIONS:
            raise ConfigError(f"QUANTIZATION: {self.quantization!r}; allowed: 'nf4', None")
        if self.num_adapters is not None:
            bounds.check_int("Transformer.num_adapters", self.num_adapters, 1, bounds.MAX_SIZE)

    def build(self) -> Any:
        """The `flax.nnx.Module`, with an abstract value in every parameter."""
        module = self.config.build()
        if self.lora is not None:
            from t5x_ext.models.blocks.lora import attach

            attach(module, self.config, self.lora, self.num_adapters)
        return module

    def replace(self, config: ModelConfig) -> Transformer:
        return dataclasses.replace(self, config=config)

    @property
    def has_dropout(self) -> bool:
        return self.config.dropout_rate > 0 or (self.lora is not None and self.lora.dropout > 0)

    @property
    def base(self) -> Transformer:
        """The same network without adapters, not quantised."""
        return Transformer(self.config)

    @property
    def has_cache(self) -> bool:
        return True

    @property
    def continues_prompts(self) -> bool:
        # A kernel that is insisted on does not take rows that begin in the middle.
        return not self.config.has_encoder and self.config.attention != "flash"

    @functools.cached_property
    def specs(self) -> Params:
        from t5x_ext.models.blocks.parameter import specs_of

        return specs_of(self.build())

    @functools.cached_property
    def _graph(self) -> Any:
        from flax import nnx

        return nnx.split(self.build())[0]

    def bind(self, params: Params) -> Any:
        from flax import nnx

        return nnx.merge(self._graph, params)

    def init(self, key: jax.Array) -> Params:
        """Random parameters in float32; each is drawn from its own name and `key`."""
        return parameters.init_params(self.specs, key)
