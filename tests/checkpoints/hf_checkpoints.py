"""Small checkpoints in Hugging Face's layout, made without torch, and ways to change them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_ext.checkpoints.hugging_face import safetensors_files, write_hf
from t5x_ext.checkpoints.hugging_face.safetensors_files import TensorInfo
from t5x_ext.checkpoints.sources import LazyTensor, Source
from t5x_ext.models import network
from t5x_ext.models.network import T5Config
from t5x_ext.models.parameters import ParamSpec, path_name

# No two sizes are equal, and the stacks differ in depth.
SIZES: dict[str, Any] = dict(
    vocab_size=50,
    emb_dim=12,
    num_heads=3,
    head_dim=5,
    mlp_dim=20,
    num_encoder_layers=2,
    num_decoder_layers=3,
)
T5_1_0 = T5Config(**SIZES, mlp_activations=("relu",), logits_via_embedding=True)
T5_1_1 = T5Config(**SIZES, mlp_activations=("gelu", "linear"), dropout_rate=0.0)
UMT5 = T5_1_1.replace(position_table_per_layer=True)


def random_source(cfg: T5Config, dtype: Any = np.float32, **fields: Any) -> Source:
    """A checkpoint of random values in memory."""
    rng = np.random.default_rng(0)

    def draw(spec: ParamSpec) -> LazyTensor:
        values = rng.normal(size=spec.shape).astype(dtype)
        return LazyTensor(
            spec.shape, values.dtype, lambda index: np.ascontiguousarray(values[index])
        )

    specs = jax.tree_util.tree_leaves_with_path(
        network.Transformer(cfg).specs, is_leaf=lambda x: isinstance(x, ParamSpec)
    )
    tensors = {path_name(path): draw(spec) for path, spec in specs}
    facts = {"meta": {}, **fields}
    return Source("t5x_ext", "memory", tensors, cfg, 7, lambda: "0" * 64, **facts)


def make_checkpoint(directory: Path, cfg: T5Config, **options: Any) -> Path:
    """Writes a random model; `options` are those of `write_hf`."""
    write_hf(random_source(cfg), str(directory), **options)
    return directory


def edit_config(directory: Path, **fields: Any) -> None:
    """Sets fields of config.json; None takes one out."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def read_arrays(directory: Path) -> dict[str, np.ndarray]:
    """The tensors of model.safetensors under Hugging Face's names."""
    tensors = safetensors_files.read_header(epath.Path(directory / safetensors_files.FILE))
    return {name: tensor.whole() for name, tensor in tensors.items()}


def write_arrays(directory: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes model.safetensors anew."""
    infos = [TensorInfo(name, array.shape, array.dtype) for name, array in arrays.items()]
    safetensors_files.write_files(epath.Path(directory), infos, arrays.values(), {}, 1 << 40)
