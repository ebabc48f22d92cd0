"""adapter_config.json: which modules have an adapter, and of what size; by PEFT's own rules.

Source of the rules: `check_target_module_exists` and `get_pattern_key` of PEFT 0.21.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from t5x_ext.checkpoints.hugging_face.configs import positive, positive_int, read_json
from t5x_ext.errors import ConfigError

_ALL_LINEAR = "all-linear"

# Fields that are read, and those that change no result whatever they hold. `fan_in_fan_out` says
# how the base keeps its weight; A and B are the same.
_HONOURED = (
    "peft_type bias r lora_alpha lora_dropout use_rslora rank_pattern alpha_pattern target_modules"
    " exclude_modules layers_to_transform layers_pattern base_model_name_or_path init_lora_weights"
).split()
_NEUTRAL = (
    "fan_in_fan_out task_type inference_mode peft_version revision auto_mapping megatron_core"
    " qalora_group_size runtime_config ensure_weight_tying"
).split()
_NOTHING: tuple[Any, ...] = (None, False, "", [], {})
# Ways to draw A and B that change the base as well.
_CHANGED_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclasses.dataclass(frozen=True)
class PeftConfig:
    """The fields of adapter_config.json that a result depends on; see `peft.LoraConfig`."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    targets: str | tuple[str, ...]
    exclude: str | tuple[str, ...]
    layers: tuple[int, ...]
    layers_pattern: tuple[str, ...]
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    base_name: str | None

    def is_target(self, module: str) -> bool:
        """Whether a linear layer of a block, by transformers' name, has an adapter."""
        if self.exclude and _is_listed(self.exclude, module):
            return False
        if self.targets == _ALL_LINEAR or isinstance(self.targets, str):
            return self.targets == _ALL_LINEAR or _is_listed(self.targets, module)
        if module in self.targets:
            return True
        return _is_listed(self.targets, module) and (not self.layers or self._is_in_layers(module))

    def rank_of(self, module: str) -> int:
        """Rank of a module's adapter."""
        return _pick(self.rank_pattern, module, self.rank)

    def alpha_of(self, module: str) -> float:
        """Alpha of a module's adapter."""
        return _pick(self.alpha_pattern, module, self.alpha)

    def scale_of(self, module: str) -> float:
        """What a module's adapter is multiplied with."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.rslora else rank)

    def _is_in_layers(self, module: str) -> bool:
        patterns = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in self.layers_pattern]
        for pattern in patterns or [r".*?\.[^.]*\.(\d+)\."]:
            if match := re.match(pattern, module):
                return int(match[1]) in self.layers
        return False


def read_config(path: epath.Path) -> PeftConfig:
    """Reads an adapter_config.json.

    Raises:
        ConfigError: If it is damaged, or asks for what we do not compute; names the field.
    """
    raw = read_json(path)
    _refuse(raw, path)
    where = str(path)
    for pattern in ("rank_pattern", "alpha_pattern"):
        if not isinstance(raw.get(pattern) or {}, dict):
            raise ConfigError(f"{path}: {pattern} is {raw[pattern]!r}; allowed: an object")
    ranks, alphas = raw.get("rank_pattern") or {}, raw.get("alpha_pattern") or {}
    targets = _names(raw, "target_modules", path)
    if not targets:
        raise ConfigError(
            f"{path}: target_modules is {raw.get('target_modules')!r}; allowed:"
            " a list of names, or one regular expression"
        )
    dropout = raw.get("lora_dropout") or 0.0
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ConfigError(f"{path}: lora_dropout is {dropout!r}; allowed: a number in [0, 1)")
    base = raw.get("base_model_name_or_path")
    config = PeftConfig(
        rank=positive_int(raw, "r", where, 8),
        alpha=positive(raw, "lora_alpha", where, 8.0),
        dropout=float(dropout),
        rslora=bool(raw.get("use_rslora")),
        targets=targets,
        exclude=_names(raw, "exclude_modules", path),
        layers=_layers(raw, path),
        layers_pattern=_listed(_names(raw, "layers_pattern", path)),
        rank_pattern={key: positive_int(ranks, key, f"{path}: rank_pattern") for key in ranks},
        alpha_pattern={key: positive(alphas, key, f"{path}: alpha_pattern") for key in alphas},
        base_name=base if isinstance(base, str) else None,
    )
    _check_regexes(config, path)
    return config


def _refuse(raw: Mapping[str, Any], path: epath.Path) -> None:
    """Refuses by name what would change the result and is not honoured."""
    for field, allowed in (("peft_type", "LORA"), ("bias", "none")):
        if raw.get(field, allowed) != allowed:
            raise ConfigError(
                f"{path}: {field} is {raw[field]!r}, which is not supported; allowed: {allowed!r}"
            )
    drawn = raw.get("init_lora_weights")
    if isinstance(drawn, str) and drawn.lower().startswith(_CHANGED_BASE):
        raise ConfigError(
            f"{path}: init_lora_weights is {drawn!r}, which changes the base as well; allowed: an"
            " adapter that PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)"
            " has converted"
        )
    for field, value in raw.items():
        if field not in (*_HONOURED, *_NEUTRAL) and value not in _NOTHING:
            raise ConfigError(
                f"{path}: {field} is {value!r}, which is not supported; allowed: null or false"
            )


def _names(raw: Mapping[str, Any], field: str, path: epath.Path) -> str | tuple[str, ...]:
    value = raw.get(field) or ()
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{path}: {field} is {value!r}; allowed: a list of names, or a text")
    return tuple(sorted(value))


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _layers(raw: Mapping[str, Any], path: epath.Path) -> tuple[int, ...]:
    value = raw.get("layers_to_transform")
    layers = [value] if isinstance(value, int) else value or []
    if not isinstance(layers, list) or not all(isinstance(layer, int) for layer in layers):
        raise ConfigError(
            f"{path}: layers_to_transform is {value!r}; allowed: a list of layer numbers"
        )
    return tuple(layers)


def _check_regexes(config: PeftConfig, path: epath.Path) -> None:
    fields: dict[str, Sequence[str]] = {
        "target_modules": [config.targets] if isinstance(config.targets, str) else [],
        "exclude_modules": [config.exclude] if isinstance(config.exclude, str) else [],
        "layers_pattern": config.layers_pattern,
        "rank_pattern": [*config.rank_pattern],
        "alpha_pattern": [*config.alpha_pattern],
    }
    for field, patterns in fields.items():
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"{path}: {field} has {pattern!r}; allowed: a regular expression ({error})"
                ) from None


def _is_listed(names: str | tuple[str, ...], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _pick(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    found = (key for key in patterns if re.match(rf"(.*\.)?({key})$", module))
    key = next(found, None)
    return default if key is None else patterns[key]
