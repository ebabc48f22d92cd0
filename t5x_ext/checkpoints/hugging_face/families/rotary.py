"""Rotary positions in config.json: `rope_parameters` of transformers 5, older files' two fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5x_ext.checkpoints.hugging_face.configs import positive, positive_int, require
from t5x_ext.errors import ConfigError
from t5x_ext.models.llama import LlamaConfig

_DEFAULT_THETA = 10_000.0
_TYPES = ("default", "llama3")


def read_rope(raw: Mapping[str, Any], path: str, may_scale: bool) -> dict[str, Any]:
    """The fields of our config that say how positions turn queries and keys.

    Args:
        raw: config.json. transformers 5 writes `rope_parameters`; 4 wrote `rope_theta` and
            `rope_scaling`.
        path: Of the file, for messages.
        may_scale: Whether the family has the stretched frequencies of LLaMA 3.1.

    Raises:
        ConfigError: If the kind is not supported, or the fields disagree.
    """
    require(raw, {"partial_rotary_factor": (1, None), "rotary_pct": (1, None)}, path)
    fields: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        stated = raw.get(name) or {}
        if not isinstance(stated, dict) or any(isinstance(v, dict) for v in stated.values()):
            raise ConfigError(f"{path}: {name} is {stated!r}; allowed: one object for all layers")
        fields |= stated
    require(fields, {"partial_rotary_factor": (1, None)}, f"{path}: rope_parameters")
    types = _TYPES if may_scale else _TYPES[:1]
    for name in ("rope_type", "type"):
        require(fields, {name: (*types, None)}, f"{path}: rope_scaling or rope_parameters")
    theta = positive(fields, "rope_theta", path, positive(raw, "rope_theta", path, _DEFAULT_THETA))
    if raw.get("rope_theta") not in (None, theta):
        raise ConfigError(
            f"{path}: rope_theta is {raw['rope_theta']!r}, but rope_parameters says {theta!r}"
        )
    if (fields.get("rope_type") or fields.get("type")) != "llama3":
        return {"rope_theta": theta}
    return {
        "rope_theta": theta,
        "rope_scaling_factor": positive(fields, "factor", path),
        "rope_low_freq_factor": positive(fields, "low_freq_factor", path),
        "rope_high_freq_factor": positive(fields, "high_freq_factor", path),
        "rope_original_length": positive_int(fields, "original_max_position_embeddings", path),
    }


def write_rope(cfg: LlamaConfig) -> dict[str, Any]:
    """The two fields of transformers 4, which 5 reads as well."""
    if cfg.rope_scaling_factor == 1.0:
        return {"rope_theta": cfg.rope_theta, "rope_scaling": None}
    scaling = {
        "rope_type": "llama3",
        "factor": cfg.rope_scaling_factor,
        "low_freq_factor": cfg.rope_low_freq_factor,
        "high_freq_factor": cfg.rope_high_freq_factor,
        "original_max_position_embeddings": cfg.rope_original_length,
    }
    return {"rope_theta": cfg.rope_theta, "rope_scaling": scaling}
