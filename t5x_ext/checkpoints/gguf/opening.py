"""A GGUF file as transformers' config and tensors of the same model, which are then read as such.

llama.cpp stores query and key rows of a head in pairs that are turned together, transformers the
first halves of all pairs and then the second; everything else has the same place under other names.
Of LLaMA 3.1's stretched rotations it stores no settings but a tensor that they follow from.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from t5x_ext.checkpoints.digests import hash_files
from t5x_ext.checkpoints.gguf.tokenizers import write_tokenizer
from t5x_ext.checkpoints.hugging_face.configs import positive_int
from t5x_ext.checkpoints.hugging_face.opening import assemble
from t5x_ext.checkpoints.sources import Index, LazyTensor, Source
from t5x_ext.errors import ConfigError

SUFFIX = ".gguf"
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q6_K")

# config.json field -> metadata key, below 'llama.'
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "num_local_experts": "expert_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_TOKENS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_LINEAR = ("scaling.factor", "scale_linear")  # new and old name, below 'llama.rope.'
_STRETCH = "rope_freqs.weight"  # [C / 2], by what LLaMA 3.1 divides the frequency of each pair


def find_gguf(path: epath.Path) -> epath.Path | None:
    """The GGUF file that a path means: itself, or the only one in a directory."""
    if path.suffix == SUFFIX and path.is_file():
        return path
    found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else []
    if len(found) > 1:
        raise ConfigError(f"{path}: holds {len(found)} {SUFFIX} files; give the path of one")
    return found[0] if found else None


def open_gguf(path: str) -> Source:
    """Opens a LLaMA.

    Args:
        path: A local .gguf file, or a directory that holds one.

    Returns:
        The checkpoint, all tensors in float32; `meta['hugging_face']` is the config.json that
        transformers would have. Its tokenizer lies in a directory that lasts as long as the
        process.

    Raises:
        ConfigError: If the file is damaged, of another architecture, or has a tensor of a type
            that is not in `TYPES`.
    """
    file = find_gguf(epath.Path(path))
    assert file is not None
    reader = _read(file)
    raw = _config(reader, file)
    stored = _tensors(reader, raw, file)
    config, tensors = assemble(raw, stored, file, file)
    return Source(
        kind="gguf",
        path=str(file),
        tensors=tensors,
        config=config,
        step=0,
        digest_fn=lambda: hash_files([file], file.parent),
        meta={"hugging_face": raw},
        tokenizer_dir=_tokenizer_dir(reader, file),
    )


def _read(file: epath.Path) -> Any:
    import gguf

    if "://" in str(file):
        raise ConfigError(f"{file}: GGUF is read from local files only; copy it here first")
    try:
        return gguf.GGUFReader(str(file))
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{file}: is truncated, or not a GGUF file: {why}") from None


def _value(reader: Any, name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()


def _config(reader: Any, file: epath.Path) -> dict[str, Any]:
    """config.json of the same model."""
    architecture = _value(reader, "general.architecture")
    if architecture != "llama":
        raise ConfigError(
            f"{file}: general.architecture is {architecture!r}, which is not supported;"
            " allowed: 'llama'"
        )
    scaling = _value(reader, "llama.rope.scaling.type")
    if scaling not in (None, "none"):
        raise ConfigError(
            f"{file}: llama.rope.scaling.type is {scaling!r}, which is not supported;"
            " allowed: 'none'"
        )
    for name in _LINEAR:  # llama.cpp stretches positions by it, whether or not a type is stated
        factor = None if scaling == "none" else _value(reader, f"llama.rope.{name}")
        if factor not in (None, 0, 1):
            raise ConfigError(
                f"{file}: llama.rope.{name} is {factor!r}, which is not supported; allowed: 1"
            )
    raw = {field: _value(reader, f"llama.{name}") for field, name in _SIZES.items()}
    raw |= {field: _value(reader, name) for field, name in _TOKENS.items()}
    for field in ("rms_norm_eps", "rope_theta"):
        if raw[field] is not None:  # stored in float32: the shortest number that means the same
            raw[field] = float(str(np.float32(raw[field])))
    width = positive_int(raw, "hidden_size", str(file))
    heads = positive_int(raw, "num_attention_heads", str(file))
    raw["head_dim"] = positive_int(raw, "head_dim", str(file), max(1, width // heads))
    turned = _value(reader, "llama.rope.dimension_count")
    if turned not in (None, raw["head_dim"]):
        raise ConfigError(
            f"{file}: llama.rope.dimension_count is {turned!r}, which is not supported;"
            f" allowed: all of a head, {raw['head_dim']}"
        )
    table = next((t for t in reader.tensors if t.name == "token_embd.weight"), None)
    has_head = any(tensor.name == "output.weight" for tensor in reader.tensors)
    return raw | {
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": None if table is None else int(table.shape[-1]),
        "tie_word_embeddings": not has_head,
        "rope_scaling": _rope_scaling(reader, raw, file),
    }


def _rope_scaling(reader: Any, raw: Mapping[str, Any], file: epath.Path) -> dict[str, Any] | None:
    """`rope_scaling` of config.json; None without.

    llama.cpp's converter (`generate_extra_tensors` in convert_hf_to_gguf.py) computes the tensor
    from four numbers. All published models have three of them in common; the fourth is the largest
    of the tensor.
    """
    from t5x_ext.models.blocks.positions import Llama3Scaling

    stored = next((tensor for tensor in reader.tensors if tensor.name == _STRETCH), None)
    if stored is None:
        return None
    stretch = np.array(stored.data, np.float32).ravel()
    largest = float(str(stretch.max(initial=1.0)))
    scaling = Llama3Scaling(
        largest, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192
    )
    exponents = np.arange(0, raw["head_dim"], 2) / raw["head_dim"]
    plain = (raw["rope_theta"] or 10_000.0) ** -exponents
    wanted = plain / scaling(plain)
    # float32 in the converter: where a pair is nearly at full stretch, 1e-6 in its frequency is
    # 3e-5 in its stretch by 32.
    if stretch.shape != wanted.shape or not np.allclose(stretch, wanted, rtol=1e-4, atol=0):
        raise ConfigError(
            f"{file}: {_STRETCH} is not LLaMA 3.1's stretch of {len(wanted)} frequencies, which"
            " alone is supported; allowed: low_freq_factor 1, high_freq_factor 4,"
            " original_max_position_embeddings 8192, and any factor"
        )
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_length,
    }


def _tensors(reader: Any, raw: Mapping[str, Any], file: epath.Path) -> dict[str, LazyTensor]:
    """The tensors under transformers' names; a name we do not know stays as it is."""
    heads = {
        "attn_q": raw["num_attention_heads"],
        "attn_k": raw["num_key_value_heads"] or raw["num_attention_heads"],
    }
    tensors = {}
    for tensor in reader.tensors:
        if tensor.name == _STRETCH:
            continue  # part of the config
        kind = tensor.tensor_type.name
        if kind not in TYPES:
            raise ConfigError(
                f"{file}: {tensor.name} is of type {kind}, which is not supported;"
                f" allowed: {', '.join(TYPES)}"
            )
        inner = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        tensors[_hugging_face_name(tensor.name)] = _lazy(tensor, heads.get(inner))
    return tensors


def _hugging_face_name(name: str) -> str:
    """'blk.3.attn_q.weight' -> 'model.layers.3.self_attn.q_proj.weight'."""
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _IN_LAYER:
        return f"model.layers.{parts[1]}.{_IN_LAYER[parts[2]]}.{parts[3]}"
    return _WHOLE.get(name, name)


def _lazy(tensor: Any, num_heads: int | None) -> LazyTensor:
    """A tensor that is dequantised row by row whenever a part of it is read.

    Args:
        tensor: Of the reader; its blocks lie within rows.
        num_heads: Of the heads whose rows are stored in pairs; None for rows as they are.
    """
    import gguf

    shape = tuple(int(size) for size in tensor.shape[::-1])
    order = np.arange(shape[0])
    if num_heads and shape[0] % (2 * num_heads) == 0:
        order = order.reshape(num_heads, -1, 2).swapaxes(1, 2).ravel()

    def read(index: Index) -> np.ndarray:
        rows = tensor.data[order[index[0]]]
        values = gguf.quants.dequantize(rows, tensor.tensor_type)
        return np.ascontiguousarray(values[(slice(None), *index[1:])], np.float32)

    return LazyTensor(shape, np.dtype(np.float32), read)


def _tokenizer_dir(reader: Any, file: epath.Path) -> str | None:
    """The tokenizer's files in a directory of this process's own; None if there is none."""
    if _value(reader, "tokenizer.ggml.model") is None:
        return None
    directory = _kept_directory(file)
    write_tokenizer(lambda name: _value(reader, name), epath.Path(directory.name), str(file))
    return directory.name


@functools.cache
def _kept_directory(file: epath.Path) -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix=f"{file.stem}-tokenizer-")
