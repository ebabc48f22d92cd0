"""Reads an adapter of PEFT's as ours: every tensor of it is used once, and none is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from t5x_ext import bounds, files
from t5x_ext.checkpoints.digests import hash_files
from t5x_ext.checkpoints.hugging_face.configs import read_json
from t5x_ext.checkpoints.hugging_face.safetensors_files import read_header
from t5x_ext.checkpoints.meta import PROMPT
from t5x_ext.checkpoints.peft.configs import PeftConfig, read_config
from t5x_ext.checkpoints.peft.modules import (
    CONFIG_FILE,
    OWN_FILE,
    WEIGHTS_FILE,
    Module,
    modules_of,
    tensor_names,
)
from t5x_ext.checkpoints.peft.stored import StoredAdapter
from t5x_ext.checkpoints.sources import BIDIRECTIONAL, LazyTensor, Source
from t5x_ext.errors import ConfigError
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.lora import ALL, LoRA
from t5x_ext.models.parameters import Params


def read(directory: files.StrPath, config: ModelConfig) -> StoredAdapter:
    """Reads a directory of PEFT's.

    Ours has one rank and one scale for a module in all layers. Layers without an adapter, or with
    one of smaller rank, are filled up with zeros; where scales differ by layer, they become part of
    B.

    Args:
        directory: With adapter_config.json and adapter_model.safetensors, local or `gs://`.
        config: Of the base.

    Raises:
        ConfigError: If it is damaged, does not fit the base, or has what we do not compute.
    """
    path = files.path(directory)
    asked = read_config(path / CONFIG_FILE)
    stored = _open_weights(path)
    modules = modules_of(config)
    targeted = {
        module.names: [layer for layer, name in enumerate(module.names) if asked.is_target(name)]
        for module in modules
    }
    present = [module for module in modules if targeted[module.names]]
    if not present:
        known = ", ".join(sorted({module.suffix for module in modules}))
        raise ConfigError(
            f"{path / CONFIG_FILE}: target_modules {_shown(asked.targets)} match no linear layer of"
            f" this {config.family} model; allowed: {known}"
        )
    _check_tensors(path / WEIGHTS_FILE, stored, present, targeted, asked, config.family)
    sizes = {module.names: _size(module, targeted[module.names], asked) for module in present}
    params: Params = {}
    for module in present:
        layers = targeted[module.names]
        _assemble(params, module, layers, sizes[module.names], stored, asked)
    lora = _lora(asked, modules, sizes, config)
    own = _read_own(path)
    base = own.get("base", {})
    return StoredAdapter(
        lora,
        params,
        asked.base_name or base.get("name"),
        base.get("sha256"),
        own.get("step", 0),
        own.get(PROMPT),
        base.get("quantization"),
    )


def open_source(directory: files.StrPath) -> Source:
    """The tensors of a directory under PEFT's names, to be shown; no base has to be known."""
    path = files.path(directory)
    asked = read_config(path / CONFIG_FILE)
    own = _read_own(path)
    base = own.get("base", {})
    targets = asked.targets if isinstance(asked.targets, str) else list(asked.targets)
    return Source(
        kind="peft",
        path=str(path),
        tensors=_open_weights(path),
        config=None,
        step=own.get("step", 0),
        digest_fn=lambda: hash_files([path / CONFIG_FILE, path / WEIGHTS_FILE], path),
        meta={
            "adapter": {
                "lora": {"rank": asked.rank, "alpha": asked.alpha, "targets": targets},
                "base": {
                    "path": asked.base_name,
                    "sha256": base.get("sha256"),
                    "quantization": base.get("quantization"),
                },
            },
            PROMPT: own.get(PROMPT),
            BIDIRECTIONAL: own.get(BIDIRECTIONAL),
        },
    )


def _read_own(path: epath.Path) -> dict[str, Any]:
    """What we have written next to PEFT's files; {} where PEFT alone has.

    Raises:
        ConfigError: If it is damaged; names the field.
    """
    file = path / OWN_FILE
    own = read_json(file) if files.is_file(file) else {}
    base = own.get("base", {})
    if not isinstance(base, dict):
        raise ConfigError(f"{file}: base is {base!r:.60}; allowed: an object")
    for field in ("name", "sha256", "quantization"):
        if not isinstance(base.get(field), str | None):
            found = f"{base[field]!r:.60}"
            raise ConfigError(f"{file}: base.{field} is {found}; allowed: a text, or null")
    if not isinstance(own.get(BIDIRECTIONAL), bool | None):
        raise ConfigError(
            f"{file}: {BIDIRECTIONAL} is {own[BIDIRECTIONAL]!r:.60}; allowed: true, false, null"
        )
    bounds.check_int(f"{file}: step", own.get("step", 0), 0)
    return own


@dataclasses.dataclass(frozen=True)
class _Size:
    """Rank and alpha of a module in all layers."""

    rank: int
    alpha: float
    scale: float


def _size(module: Module, layers: Sequence[int], asked: PeftConfig) -> _Size:
    """Those of the first of the layers with the largest rank."""
    name = max((module.names[layer] for layer in layers), key=asked.rank_of)
    return _Size(asked.rank_of(name), asked.alpha_of(name), asked.scale_of(name))


def _open_weights(path: epath.Path) -> dict[str, LazyTensor]:
    weights = path / WEIGHTS_FILE
    if not files.is_file(weights):
        raise ConfigError(
            f"{path}: has no {WEIGHTS_FILE}; allowed: what PEFT's save_pretrained writes with"
            " safe_serialization=True, its default"
        )
    files.refuse_endless(weights)
    return read_header(weights)


def _check_tensors(
    weights: epath.Path,
    stored: Mapping[str, LazyTensor],
    modules: Sequence[Module],
    targeted: Mapping[tuple[str, ...], Sequence[int]],
    asked: PeftConfig,
    family: str,
) -> None:
    """Refuses missing, unused and mis-shaped tensors by name, in one line."""
    wanted: dict[str, tuple[int, ...]] = {}
    for module in modules:
        for layer in targeted[module.names]:
            name = module.names[layer]
            (a, b), rank = tensor_names(name), asked.rank_of(name)
            wanted |= {a: (rank, module.shape[1]), b: (module.shape[0], rank)}
    missing = [name for name in wanted if name not in stored]
    unused = [name for name in stored if name not in wanted]
    if stored and len(missing) == len(wanted):
        raise ConfigError(
            f"{weights}: an adapter for another family than {family}: it has {min(stored)}, but not"
            f" {missing[0]}"
        )
    misshapen = [
        f"{name} is {list(stored[name].shape)}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and tuple(stored[name].shape) != shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:3])}" + (" and more" if len(names) > 3 else "")
        for kind, names in (
            ("missing", missing),
            ("unused by this model", unused),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise ConfigError(
            f"{weights}: tensors do not match {CONFIG_FILE} and the base: {'; '.join(problems)}"
        )


def _assemble(
    params: Params,
    module: Module,
    layers: Sequence[int],
    size: _Size,
    stored: Mapping[str, LazyTensor],
    asked: PeftConfig,
) -> None:
    """Puts A and the parts of B of one module into the tree."""
    num_out, num_in = module.shape
    a = np.zeros((len(module.names), num_in, size.rank), np.float32)
    b = np.zeros((len(module.names), size.rank, num_out), np.float32)
    for layer in layers:
        name = module.names[layer]
        stored_a, stored_b = (
            stored[tensor].whole().astype(np.float32).T for tensor in tensor_names(name)
        )
        scale = asked.scale_of(name)
        if scale != size.scale:
            stored_b = stored_b * np.float32(scale / size.scale)
        rank = asked.rank_of(name)
        a[layer, :, :rank], b[layer, :rank] = stored_a, stored_b
    for number, (part, placement) in enumerate(module.parts.items()):
        rows = slice(None) if placement.rows is None else placement.rows.numbers()
        own = {"b": np.ascontiguousarray(b[:, :, rows])} | ({} if number else {"a": a})
        node = params
        for key in part.split("/"):
            node = node.setdefault(key, {})
        node["lora"] = own


def _lora(
    asked: PeftConfig,
    modules: Sequence[Module],
    sizes: Mapping[tuple[str, ...], _Size],
    config: ModelConfig,
) -> LoRA:
    present = {part: sizes[m.names] for m in modules if m.names in sizes for part in m.parts}
    everything = {part for module in modules for part in module.parts}
    lora = LoRA(
        rank=asked.rank,
        alpha=asked.alpha,
        dropout=asked.dropout,
        targets=tuple(present),
        rslora=asked.rslora,
        rank_pattern={part: s.rank for part, s in present.items() if s.rank != asked.rank},
        alpha_pattern={part: s.alpha for part, s in present.items() if s.alpha != asked.alpha},
    )
    if present.keys() == everything:
        return dataclasses.replace(lora, targets=ALL)
    if isinstance(asked.targets, tuple):  # the names that users know, where they say the same
        short = dataclasses.replace(lora, targets=asked.targets)
        if {part for part in everything if short.matches(config.module_names(part))} == set(
            present
        ):
            return short
    return lora


def _shown(targets: str | tuple[str, ...]) -> str:
    return repr(targets) if isinstance(targets, str) else ", ".join(targets)
