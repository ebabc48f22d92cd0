"""What every call of a model in memory rests on: its weights, adapters and context."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_ext.decoding import compile_costs
from t5x_ext.decoding.adapters import Adapter, adapter_index
from t5x_ext.models import BaseTransformerModel, parameters
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner


class BaseCalls(abc.ABC):
    """A model on devices. What its calls give does not depend on the batch that they are made in.

    `adapter` is in all calls the name of one of the model's adapters, for all rows, or a list that
    has for each row a name, or None for the base alone. Left out, it is the adapter that the model
    was loaded with, where it was loaded with one.
    """

    config: ModelConfig
    params: Params
    vocabulary: Any
    partitioner: PjitPartitioner
    path: str
    adapters: Sequence[str]
    default_adapter: str | None

    @property
    def _stated_eos_ids(self) -> tuple[int, ...]:
        """The ids that end an answer by the checkpoint itself, whatever the vocabulary says."""
        return ()

    @property
    @abc.abstractmethod
    def _described(self) -> BaseTransformerModel:
        """The network with its vocabulary."""

    def _or_default(self, adapter: Adapter) -> Adapter:
        return self.default_adapter if adapter is None else adapter

    def _adapter_index(self, adapter: Adapter, count: int) -> np.ndarray | None:
        return adapter_index(self.adapters, self._or_default(adapter), count)

    def _check_context(self, prompt_length: int, output_length: int) -> None:
        """Raises ConfigError for a row that is longer than the model was made for."""
        new = f" and {output_length} of its answer" if output_length else ""
        self._described.check_context(
            {"inputs": prompt_length, "targets": output_length},
            f"Model: a prompt of {prompt_length} tokens{new}",
        )

    def _places(self, batch_size: int, rows: Sequence[Any], count: int, new: int = 0) -> int:
        """Places of a batch for `count` answers of `new` tokens to prompts, rows of token ids."""
        length = max(map(len, rows), default=1) + new
        worth = self._worth_compiling
        return compile_costs.places_for(self.partitioner, batch_size, count, length, worth)

    @functools.cached_property
    def _worth_compiling(self) -> int:
        """Positions that one more program has to save."""
        num_params = parameters.count_params(self._described.generator.specs)
        return compile_costs.positions_per_program(self.partitioner, num_params)
