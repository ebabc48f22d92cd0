"""The families of models, by the name that checkpoints carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from t5x_ext.errors import ConfigError, nearest
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.mpt import MptConfig
from t5x_ext.models.t5_config import T5Config

FAMILIES: dict[str, type[ModelConfig]] = {
    config.family: config for config in (T5Config, LlamaConfig, MptConfig, FalconConfig)
}


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """All fields of a config, and its family."""
    return {"family": config.family, **dataclasses.asdict(cast(Any, config))}


def config_from_json(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """Undoes `config_to_json`.

    Args:
      fields: what was written; without a family, T5's.
      where: the file and place, for messages.

    Raises:
      ConfigError: a family or field is unknown, or a value is not allowed.
    """
    fields = dict(fields)
    family = fields.pop("family", T5Config.family)
    if family not in FAMILIES:
        raise ConfigError(f"{where}: model family {family!r}{nearest(str(family), FAMILIES)}")
    known = {field.name for field in dataclasses.fields(cast(Any, FAMILIES[family]))}
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}{nearest(unknown[0], known)}")
    try:
        return FAMILIES[family](**fields)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
