"""What travels with converted parameters: their origin, the model's config, the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from mixtures import tokenizer_files
from t5x_ext.checkpoints.directories import PREFIX
from t5x_ext.checkpoints.hugging_face import tokenizers
from t5x_ext.checkpoints.hugging_face.configs import GENERATION_FILE
from t5x_ext.checkpoints.sources import EOS_IDS, Source
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.families import config_from_json, config_to_json
from t5x_ext.models.lora import LoRA

if TYPE_CHECKING:
    from t5x_ext.models import BaseTransformerModel

TOKENIZER = "tokenizer"

CONFIG = "model_config"
_T5_CONFIG = "t5_config"  # of checkpoints from before there were other families
ADAPTER = "adapter"
NOT_QUANTIZED = "none"  # where "nf4" may stand, and nothing where it is not known
PROMPT = "prompt"  # of the rows that a run was tuned on, by name
_SOURCE = "source"


def describe(source: Source) -> dict[str, Any]:
    """The meta of a checkpoint converted from `source`: its own, and where it comes from.

    An origin that the source states itself is kept inside: `meta["source"]["source"]`.
    """
    origin = {"path": source.path, "kind": source.kind, "sha256": source.digest}
    if _SOURCE in source.meta:
        origin[_SOURCE] = source.meta[_SOURCE]
    meta = dict(source.meta) | {"step": source.step, _SOURCE: origin}
    return meta | {CONFIG: config_to_json(source.config)} if source.config else meta


def config_in(meta: Mapping[str, Any], path: epath.Path) -> ModelConfig | None:
    """The model's config that a meta states, if any.

    Raises:
        ConfigError: If this version does not know its family or one of its fields.
    """
    for name in (CONFIG, _T5_CONFIG):
        if name in meta:
            return config_from_json(meta[name], f"{path}: its {name}")
    return None


def describe_adapter(
    lora: LoRA, base_path: str, base_fingerprint: str, quantization: str | None
) -> dict[str, Any]:
    """What a run's checkpoints say of their adapter, for `meta[ADAPTER]`."""
    base = {"path": base_path, "sha256": base_fingerprint, "quantization": quantization}
    return {"lora": lora.describe(), "base": base}


def lora_in(meta: Mapping[str, Any]) -> LoRA | None:
    """The adapter that a meta describes; None of a checkpoint that holds all parameters."""
    return LoRA(**meta[ADAPTER]["lora"]) if ADAPTER in meta else None


def eos_ids_in(meta: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that end an answer, by the files of a Hugging Face checkpoint; empty of others.

    generation_config.json is asked first, as transformers does, then config.json. A run has
    those of the checkpoint that it began with.
    """
    carried = {"eos_token_id": meta.get(EOS_IDS)}
    stated = meta.get("generation_config", {}), meta.get("hugging_face", {}), carried
    return tokenizer_files.eos_ids_in(*stated)


def eos_ids_for(model: BaseTransformerModel, meta: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end an answer of `model` besides its vocabulary's: `eos_ids_in`.

    None for an encoder-decoder, whose vocabulary may be the user's own.
    """
    return eos_ids_in(meta) if model.features.joined else ()


def carried_eos_ids(eos_ids: Sequence[int]) -> dict[str, Any]:
    """What the meta of a run says of these; nothing where there are none."""
    return {EOS_IDS: [*eos_ids]} if eos_ids else {}


def tokenizer_of(checkpoint: epath.Path) -> str | None:
    """The directory of a checkpoint's tokenizer; a run keeps it once, in MODEL_DIR."""
    places = [checkpoint / TOKENIZER]
    if checkpoint.name.startswith(f"{PREFIX}_"):
        places.append(checkpoint.parent / TOKENIZER)
    return next((str(place) for place in places if place.is_dir()), None)


def copy_tokenizer(source: Source, checkpoint: epath.Path) -> None:
    """Copies a source's tokenizer, where it has one, to where `tokenizer_of` finds it."""
    if source.tokenizer_dir is None:
        return
    (checkpoint / TOKENIZER).mkdir()
    directory = epath.Path(source.tokenizer_dir)
    found = tokenizers.files_in(directory)
    for path in found:
        (checkpoint / TOKENIZER / path.name).write_bytes(path.read_bytes())
    # Of several ids that end a text, it has the others.
    generation = tokenizer_files.read_files(directory).get(GENERATION_FILE)
    if generation is not None:
        (checkpoint / TOKENIZER / GENERATION_FILE).write_bytes(generation)
