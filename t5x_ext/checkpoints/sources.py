"""Checkpoints of any layout, seen as one thing: named tensors that are read piece by piece.

A layout (our own, Hugging Face's, T5X's) is a function that opens a directory as a `Source`. What
restores parameters, converts them or inspects them knows sources only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig

Index = tuple[slice, ...]

BIDIRECTIONAL = "inputs_bidirectional_attention"  # in `Source.meta`, see `DecoderOnlyModel`
EOS_IDS = "eos_ids"  # likewise, of a run: those of the checkpoint that it began with


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor on disk, in the shape our model holds it.

    Attributes:
      shape: of the whole tensor; layers are stacked on the first axis.
      dtype: as stored (bfloat16 is `ml_dtypes.bfloat16`).
      read: a slice per axis (`slice(None)` or non-negative bounds, step 1) -> a C-contiguous
        array of that part; reads little more from disk than the part.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]

    def whole(self) -> np.ndarray:
        """All of it, in memory."""
        return self.read((slice(None),) * len(self.shape))


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint; opening it has checked every name, shape and dtype, but no value.

    Attributes:
      kind: 't5x_ext', 'hf', 't5x' or 'gguf'.
      path: where it was opened.
      tensors: 'encoder/layers/mlp/wi_0/kernel' -> tensor, the names of `Network.specs`.
      config: the model's shape, where the files state it; None if they do not.
      step: updates the parameters have seen; 0 if the files do not say.
      digest_fn: finds `digest`, which may mean to read all files.
      meta: what else the files say of themselves, as JSON.
      tokenizer_dir: directory with the tokenizer's files, or None.
    """

    kind: str
    path: str
    tensors: Mapping[str, LazyTensor]
    config: ModelConfig | None
    step: int
    digest_fn: Callable[[], str]
    meta: Mapping[str, Any]
    tokenizer_dir: str | None = None

    @functools.cached_property
    def digest(self) -> str:
        """A hash that names the weights, see `params.fingerprint`."""
        return self.digest_fn()

    @property
    def bidirectional(self) -> bool | None:
        """The `inputs_bidirectional_attention` of its training; None if the files do not say."""
        return self.meta.get(BIDIRECTIONAL)

    def check_config(self, config: ModelConfig) -> None:
        """Refuses a config that computes something else from these weights.

        Many fields show in no tensor's shape: the base of rotary frequencies, a norm's epsilon.

        Args:
          config: of the network that the weights are read into.

        Raises:
          ConfigError: the checkpoint states another value of a field. T5X's state none.
        """
        if self.kind == "t5x" or self.config is None or type(self.config) is not type(config):
            return
        field = config.first_difference(self.config)
        if field is not None:
            raise config.error(field, f"{getattr(self.config, field)!r}, as {self.path} states")

    def check_causal(self, reader: str) -> None:
        """Refuses a prefix language model for `reader`, which would take it for a causal one.

        Raises:
          ConfigError: the tokens of its prompts see each other whatever their order.
        """
        if self.bidirectional:
            raise ConfigError(
                f"{self.path}: trained with {BIDIRECTIONAL}, and {reader} reads prompts from left "
                "to right; allowed: t5x_ext as the layout"
            )
