"""The linear layers of a model's blocks, as PEFT names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from t5x_ext.checkpoints.hugging_face.families import family_of
from t5x_ext.checkpoints.hugging_face.placements import Placement, place_all, specs_by_name
from t5x_ext.models.config import ModelConfig

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
OWN_FILE = "t5x_ext.json"


@dataclasses.dataclass(frozen=True)
class Module:
    """One linear layer of transformers', in every layer of a stack.

    Attributes:
      names: by layer, "model.layers.3.self_attn.q_proj".
      parts: our modules that it is made of, by name and in that order: query, key and value where
        it is fused. They share A.
      shape: [out, in] of its weight.
    """

    names: tuple[str, ...]
    parts: Mapping[str, Placement]
    shape: tuple[int, ...]

    @property
    def suffix(self) -> str:
        """What users call it: "q_proj"."""
        return self.names[0].rsplit(".", 1)[-1]


def modules_of(config: ModelConfig) -> list[Module]:
    """All modules that can have an adapter."""
    family = family_of(config)
    placements = place_all(config, family.names(config), family.fields)
    by_names: dict[tuple[str, ...], dict[str, Placement]] = {}
    for name, spec in sorted(specs_by_name(config).items()):
        if spec.is_kernel and spec.axes[0] == "layers":
            parts = by_names.setdefault(placements[name].names, {})
            parts[name.removesuffix("/kernel")] = placements[name]
    return [
        Module(
            tuple(name.removesuffix(".weight") for name in names),
            parts,
            next(iter(parts.values())).shape,
        )
        for names, parts in by_names.items()
    ]


def tensor_names(module: str) -> tuple[str, str]:
    """What A and B of a module are stored as."""
    prefix = f"base_model.model.{module}"
    return f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"
