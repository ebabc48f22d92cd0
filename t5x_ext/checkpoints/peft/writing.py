"""Writes an adapter of ours as PEFT has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from t5x_ext.checkpoints import trees
from t5x_ext.checkpoints.destinations import Check, complete_or_absent, unchecked
from t5x_ext.checkpoints.hugging_face.safetensors_files import TensorInfo, write_file
from t5x_ext.checkpoints.meta import PROMPT
from t5x_ext.checkpoints.peft.modules import (
    CONFIG_FILE,
    OWN_FILE,
    WEIGHTS_FILE,
    Module,
    modules_of,
    tensor_names,
)
from t5x_ext.checkpoints.peft.stored import StoredAdapter
from t5x_ext.checkpoints.sources import BIDIRECTIONAL
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.network import Transformer


def write(
    directory: str,
    config: ModelConfig,
    adapter: StoredAdapter,
    bidirectional: bool | None = None,
    check: Check = unchecked,
) -> None:
    """Writes a directory that PEFT loads; complete or absent.

    Args:
        directory: To create, local or `gs://`.
        config: Of the base.
        adapter: What to write.
        bidirectional: Of its prompts, see `Source`.
        check: Called with the directory that holds everything, before it gets its name.

    Raises:
        ConfigError: If the directory exists, or the arrays are not those of its `lora`.
    """
    trees.check_tree(directory, adapter.params, Transformer(config, adapter.lora).trainable)
    named = trees.named_leaves(adapter.params)
    leaves = {name: np.asarray(leaf, np.float32) for name, leaf in named.items()}
    modules = modules_of(config)
    present = [m for m in modules if any(f"{part}/lora/b" in leaves for part in m.parts)]
    arrays = {name: array for module in present for name, array in _tensors(module, leaves).items()}
    base_name = PurePosixPath(adapter.base_path).name if adapter.base_path else None
    with complete_or_absent(directory) as path:
        infos = [TensorInfo(name, array.shape, array.dtype) for name, array in arrays.items()]
        write_file(path / WEIGHTS_FILE, infos, iter(arrays.values()), {"format": "pt"})
        written = {
            CONFIG_FILE: _describe(config, adapter.lora, modules, present, base_name),
            OWN_FILE: {
                "base": {
                    "name": base_name,
                    "sha256": adapter.base_fingerprint,
                    "quantization": adapter.base_quantization,
                },
                "step": adapter.step,
                PROMPT: adapter.prompt,
                BIDIRECTIONAL: bidirectional,
            },
        }
        for name, fields in written.items():
            (path / name).write_text(json.dumps(fields, indent=2) + "\n")
        check(path)


def _tensors(module: Module, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PEFT's tensors of one module; of a fused one, rows of parts without an adapter are zero."""
    a = next(leaves[f"{p}/lora/a"] for p in module.parts if f"{p}/lora/a" in leaves)
    b = np.zeros((a.shape[0], a.shape[2], module.shape[0]), np.float32)
    for part, placement in module.parts.items():
        if f"{part}/lora/b" in leaves:
            rows = slice(None) if placement.rows is None else placement.rows.numbers()
            b[:, :, rows] = leaves[f"{part}/lora/b"]
    tensors: dict[str, np.ndarray] = {}
    for layer, name in enumerate(module.names):
        names = tensor_names(name)
        tensors |= {names[0]: np.ascontiguousarray(a[layer].T)}
        tensors |= {names[1]: np.ascontiguousarray(b[layer].T)}
    return tensors


def _describe(
    config: ModelConfig,
    lora: LoRA,
    modules: Sequence[Module],
    present: Sequence[Module],
    base_name: str | None,
) -> dict[str, Any]:
    """adapter_config.json, in fields that PEFT has had since 0.8."""
    names = {
        module.names: next(
            config.module_names(part)
            for part in module.parts
            if lora.matches(config.module_names(part))
        )
        for module in present
    }
    ranks = {module.names: lora.rank_of(names[module.names]) for module in present}
    alphas = {module.names: lora.alpha_of(names[module.names]) for module in present}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if config.has_encoder else "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "target_modules": [*_select(modules, {names: True for names in ranks}, False)],
        "rank_pattern": _select(modules, ranks, lora.rank),
        "alpha_pattern": _select(modules, alphas, lora.alpha),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "modules_to_save": None,
        "use_dora": False,
    }


def _select(
    modules: Sequence[Module], values: Mapping[tuple[str, ...], Any], default: Any
) -> dict[str, Any]:
    """Names of modules that have another value than the default, and it.

    By suffix where all modules of that suffix have the same value, else by the names of all layers.
    """
    selected: dict[str, Any] = {}
    for module in modules:
        value = values.get(module.names, default)
        if value == default:
            continue
        alike = [other for other in modules if other.suffix == module.suffix]
        if all(values.get(other.names, default) == value for other in alike):
            selected[module.suffix] = value
        else:
            selected |= {name: value for name in module.names}
    return selected
