"""What reading and writing asks of a family."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

from t5x_ext.checkpoints.hugging_face.placements import Name
from t5x_ext.checkpoints.sources import LazyTensor
from t5x_ext.models.config import ModelConfig


class Family(abc.ABC):
    """One family's directories.

    Attributes:
      model_types: config.json's `model_type`s that it reads.
      config: our config's class.
      fields: what config.json calls the lengths of our logical axes, for messages.
    """

    model_types: ClassVar[tuple[str, ...]]
    config: ClassVar[type[ModelConfig]]
    fields: ClassVar[Mapping[str, str]]

    @abc.abstractmethod
    def read(
        self, raw: Mapping[str, Any], stored: Mapping[str, LazyTensor], path: str
    ) -> tuple[ModelConfig, dict[str, LazyTensor]]:
        """Our config, and the tensors that make up our parameters, each once.

        What no forward pass reads, and copies of other tensors, are left out of the second.

        Args:
            raw: config.json.
            stored: The tensors by transformers' names.
            path: Of config.json, for messages.

        Raises:
            ConfigError: If config.json asks for what our network does not compute, or disagrees
                with the tensors.
        """

    @abc.abstractmethod
    def names(self, cfg: ModelConfig) -> dict[str, Name]:
        """transformers' name of every parameter of ours."""

    @abc.abstractmethod
    def write(self, cfg: ModelConfig, model_type: str | None) -> dict[str, Any]:
        """config.json, but for special tokens and dtype, read alike by transformers 4 and 5.

        Args:
            cfg: The model's shape.
            model_type: What the config.json that the model came with said; None without one.

        Raises:
            ConfigError: If transformers has no name for something.
        """

    def special_tokens(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The ids that transformers wants in config.json and generation_config.json.

        Args:
            meta: Of a source.
        """
        raw = meta.get("hugging_face", {})
        return {name: raw.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
