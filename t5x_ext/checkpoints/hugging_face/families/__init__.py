"""Families of models as transformers writes them, by config.json's model_type and by ours.

A family is one file: which config.json means which config of ours, and one table of names.
"""

from __future__ import annotations

from t5x_ext.checkpoints.hugging_face.families.falcon import Falcon
from t5x_ext.checkpoints.hugging_face.families.family import Family
from t5x_ext.checkpoints.hugging_face.families.llama import Llama
from t5x_ext.checkpoints.hugging_face.families.mpt import Mpt
from t5x_ext.checkpoints.hugging_face.families.t5 import T5
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig

__all__ = ["Family", "family_by_model_type", "family_of"]

_FAMILIES: tuple[Family, ...] = (T5(), Llama(), Mpt(), Falcon())
_BY_MODEL_TYPE = {name: family for family in _FAMILIES for name in family.model_types}

_UNSUPPORTED_TYPES = {
    "longt5": "its encoder attends locally",
    "switch_transformers": "its feed-forward blocks are mixtures of experts",
    "mixtral": "its feed-forward blocks are mixtures of experts",
    "RefinedWeb": "the name of falcon before transformers had it; convert it there first",
    "RefinedWebModel": "the name of falcon before transformers had it; convert it there first",
}


def family_by_model_type(model_type: object, path: str) -> Family:
    """The family that reads a config.json.

    Args:
        model_type: What it says of itself.
        path: Of the file, for messages.

    Raises:
        ConfigError: If there is none.
    """
    if isinstance(model_type, str) and model_type in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[model_type]
    why = _UNSUPPORTED_TYPES.get(str(model_type))
    raise ConfigError(
        f"{path}: model_type {model_type!r} is not supported"
        + (f" ({why})" if why else "")
        + f"; allowed: {', '.join(_BY_MODEL_TYPE)}"
    )


def family_of(cfg: ModelConfig) -> Family:
    """The family that writes a config of ours."""
    return next(family for family in _FAMILIES if isinstance(cfg, family.config))
