"""GGUF files of LLaMA: every type of tensor, llama.cpp's order of rows, and damage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
from etils import epath
from flax import traverse_util
from hf_checkpoints import random_source
from sentencepiece import sentencepiece_model_pb2
from tokenizers import pre_tokenizers

from mixtures.vocabularies import open_vocabulary
from t5x_ext.checkpoints import open_source
from t5x_ext.checkpoints.gguf.opening import TYPES
from t5x_ext.checkpoints.gguf.tokenizers import write_tokenizer
from t5x_ext.convert import main
from t5x_ext.errors import ConfigError
from t5x_ext.models.decoder_only import DecoderOnlyModel
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.network import Transformer

CONFIG = LlamaConfig(
    vocab_size=40,
    emb_dim=256,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=512,
    max_length=96,
    rope_theta=5e5,
    norm_epsilon=1e-5,
)
STRETCH = "rope_freqs.weight"
NAMES = {
    "pre_self_attention_layer_norm/scale": "attn_norm",
    "self_attention/query/kernel": "attn_q",
    "self_attention/key/kernel": "attn_k",
    "self_attention/value/kernel": "attn_v",
    "self_attention/out/kernel": "attn_output",
    "pre_mlp_layer_norm/scale": "ffn_norm",
    "mlp/wi_0/kernel": "ffn_gate",
    "mlp/wi_1/kernel": "ffn_up",
    "mlp/wo/kernel": "ffn_down",
}


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order of query and key rows that llama.cpp's converter makes."""
    pairs = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path, kind: str = "F32", cfg: LlamaConfig = CONFIG, **metadata: Any
) -> dict[str, np.ndarray]:
    """Writes a random model; returns its tensors under our names, as exact as `kind` keeps them.

    `metadata` may hold further tensors.
    """
    quantization = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(path), metadata.pop("architecture", "llama"))
    writer.add_context_length(cfg.max_length)
    writer.add_embedding_length(cfg.emb_dim)
    writer.add_block_count(cfg.num_layers)
    writer.add_feed_forward_length(cfg.mlp_dim)
    writer.add_head_count(cfg.num_heads)
    writer.add_head_count_kv(metadata.pop("kv_heads", cfg.num_kv_heads))
    writer.add_layer_norm_rms_eps(cfg.norm_epsilon)
    writer.add_rope_freq_base(cfg.rope_theta)
    add = {
        str: writer.add_string,
        bool: writer.add_bool,
        int: writer.add_uint32,
        list: writer.add_array,
    }
    for name, value in metadata.items():
        if isinstance(value, np.ndarray):
            writer.add_tensor(name, value)
        else:
            add[type(value)](name, value)
    kept = {}

    def store(name: str, weight: np.ndarray, heads: int = 0) -> np.ndarray:
        """Adds a tensor in llama.cpp's form; returns what the type keeps of it."""
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
            return weight
        stored = permute(weight, heads) if heads else weight
        if kind in ("Q4_K", "Q6_K"):  # the package only reads these: any bytes are blocks
            rng = np.random.default_rng(len(name))
            _, size = gguf.GGML_QUANT_SIZES[quantization]
            blocks = rng.integers(0, 60, (weight.shape[0], weight.shape[1] // 256 * size))
            values = blocks.astype(np.uint8)
        else:
            values = gguf.quants.quantize(np.ascontiguousarray(stored), quantization)
        writer.add_tensor(name, values, raw_dtype=quantization)
        found = gguf.quants.dequantize(values, quantization)
        if heads:  # back: pairs of rows to two halves
            found = found.reshape(heads, -1, 2, found.shape[-1]).swapaxes(1, 2)
        return found.reshape(weight.shape)

    for ours, tensor in random_source(cfg).tensors.items():
        whole = tensor.whole()
        if not ours.startswith("decoder/layers/"):
            name = {
                "token_embedder/embedding": "token_embd.weight",
                "decoder/decoder_norm/scale": "output_norm.weight",
                "decoder/logits_dense/kernel": "output.weight",
            }[ours]
            turned = ours.endswith("kernel")
            found = store(name, whole.T if turned else whole)
            kept[ours] = found.T if turned else found
            continue
        inner = NAMES[ours.removeprefix("decoder/layers/")]
        heads = {"attn_q": cfg.num_heads, "attn_k": cfg.num_kv_heads}.get(inner, 0)
        layers = [
            store(f"blk.{i}.{inner}.weight", part.T if part.ndim == 2 else part, heads)
            for i, part in enumerate(whole)
        ]
        kept[ours] = np.stack([part.T if part.ndim == 2 else part for part in layers])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_read_as_the_numbers_it_means(kind: str, tmp_path: Path) -> None:
    wanted = write_gguf(tmp_path / "model.gguf", kind)
    for path in (tmp_path / "model.gguf", tmp_path):
        source = open_source(str(path))
        assert (source.kind, source.config) == ("gguf", CONFIG)
        assert source.tensors.keys() == wanted.keys()
        for name, tensor in source.tensors.items():
            assert tensor.dtype == np.float32
            np.testing.assert_array_equal(tensor.whole(), wanted[name], err_msg=name)
    part = (slice(1, 2), slice(5, 9), slice(3, 40, 1))
    name = "decoder/layers/self_attention/query/kernel"
    np.testing.assert_array_equal(source.tensors[name].read(part), wanted[name][part])


def test_rows_of_queries_and_keys_come_back_in_their_order(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    found = open_source(str(tmp_path)).tensors
    for name, tensor in random_source(CONFIG).tensors.items():
        np.testing.assert_array_equal(found[name].whole(), tensor.whole(), err_msg=name)


def test_without_a_head_the_output_is_tied(tmp_path: Path) -> None:
    tied = CONFIG.replace(logits_via_embedding=True)
    write_gguf(tmp_path / "model.gguf", cfg=tied)
    assert open_source(str(tmp_path)).config == tied


def test_convert_writes_what_transformers_reads(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "Q8_0")
    assert main([str(tmp_path / "model.gguf"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    back, source = open_source(str(tmp_path / "hf")), open_source(str(tmp_path / "model.gguf"))
    assert (back.kind, back.config) == ("hf", source.config)
    for name, tensor in source.tensors.items():
        np.testing.assert_array_equal(back.tensors[name].whole(), tensor.whole())


def stretch_of(
    cfg: LlamaConfig, factor: float, low: float = 1.0, high: float = 4.0, context: int = 8192
) -> np.ndarray:
    """What llama.cpp's converter stores of LLaMA 3.1's `rope_scaling`, computed as it does."""
    exponents = np.arange(0, cfg.head_dim, 2, dtype=np.float32) / np.float32(cfg.head_dim)
    found = []
    for frequency in 1.0 / np.float32(cfg.rope_theta) ** exponents:
        wavelength = 2 * math.pi / frequency
        if wavelength < context / high:
            found.append(1.0)
        elif wavelength > context / low:
            found.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_stretched_rotations_of_llama_3_1_are_read(head_dim, factor, tmp_path: Path) -> None:
    cfg = CONFIG.replace(head_dim=head_dim, num_heads=256 // head_dim, num_kv_heads=2)
    write_gguf(tmp_path / "model.gguf", cfg=cfg, **{STRETCH: stretch_of(cfg, factor)})
    source = open_source(str(tmp_path))
    scaled = cfg.replace(rope_scaling_factor=factor)
    assert source.config == scaled
    assert source.tensors.keys() == random_source(cfg).tensors.keys()
    if head_dim == 64:
        found = logits(source.config, {n: t.whole() for n, t in source.tensors.items()})
        original = {name: tensor.whole() for name, tensor in random_source(cfg).tensors.items()}
        np.testing.assert_array_equal(found, logits(scaled, original))
        assert np.abs(found - logits(cfg, original)).max() > 1e-2


def logits(cfg: LlamaConfig, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Of a row as long as the context."""
    row = np.arange(cfg.max_length, dtype=np.int32)[None] % cfg.vocab_size
    batch = {"decoder_input_tokens": row, "decoder_segment_ids": np.ones_like(row)}
    params = traverse_util.unflatten_dict(tensors, sep="/")
    return np.asarray(DecoderOnlyModel(Transformer(cfg)).logits(params, batch))


@pytest.mark.parametrize(
    "stretch",
    [
        stretch_of(CONFIG, 8.0, context=16384),
        stretch_of(CONFIG, 8.0, low=2.0),
        stretch_of(CONFIG, 8.0)[:-1],
        np.linspace(1, 8, 32, dtype=np.float32),
        np.full(32, np.nan, np.float32),
    ],
)
def test_other_stretched_rotations_are_refused_in_one_line(stretch, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", **{STRETCH: stretch})
    with pytest.raises(
        ConfigError, match=r"rope_freqs.weight is not .* of 32 freq.*; allowed: low"
    ):
        open_source(str(tmp_path))


def byte_level_metadata(split: str, **changes: Any) -> dict[str, Any]:
    """A tokenizer with the piece 'hello', which no merges lead to."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "hello", "<bos>", "<eos>"]
    metadata = {
        "model": "gpt2",
        "pre": split,
        "tokens": pieces,
        "token_type": [1] * (len(pieces) - 2) + [3, 3],
        "merges": ["h e"],
        "bos_token_id": len(pieces) - 2,
        "eos_token_id": len(pieces) - 1,
        **changes,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in metadata.items()}


@pytest.mark.parametrize(
    ("split", "changes", "whole_words", "begins"),
    [
        ("llama-bpe", {}, True, True),
        ("llama3", {"add_bos_token": True}, True, True),
        ("llama-v3", {"add_bos_token": False}, True, False),
        ("gpt-2", {}, False, False),
        ("smollm", {"add_bos_token": True}, False, True),
    ],
)
def test_words_and_bos_of_a_byte_level_tokenizer_are_llama_cpps(
    split, changes, whole_words, begins, tmp_path: Path
) -> None:
    """llama.cpp looks words of LLaMA 3 up before it merges, and begins its texts with BOS."""
    write_gguf(tmp_path / "model.gguf", **byte_level_metadata(split, **changes))
    found = open_vocabulary(open_source(str(tmp_path)).tokenizer_dir)
    pieces = byte_level_metadata(split)["tokenizer.ggml.tokens"]
    words = [pieces[i] for i in found.encode("hello hellos")]
    rest = ["Ġ", "he", "l", "l", "o", "s"]
    assert words == (["hello"] if whole_words else ["he", "l", "l", "o"]) + rest
    assert found.prefix_ids == ((len(pieces) - 2,) if begins else ())
    assert found.decode(found.encode("hello hellos")) == "hello hellos"


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    """A tokenizer as LLaMA's, and what GGUF's metadata say of it."""
    folder = tmp_path_factory.mktemp("llama")
    sentencepiece.SentencePieceTrainer.train(
        input=__file__,
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    content = (folder / "tokenizer.model").read_bytes()
    pieces = sentencepiece_model_pb2.ModelProto.FromString(content).pieces
    metadata = {
        "model": "llama",
        "tokens": [piece.piece for piece in pieces],
        "scores": [piece.score for piece in pieces],
        "token_type": [piece.type for piece in pieces],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return folder / "tokenizer.model", {f"tokenizer.ggml.{k}": v for k, v in metadata.items()}


def test_a_sentencepiece_tokenizer_gives_the_ids_of_its_model(sentencepiece_model, tmp_path):
    path, metadata = sentencepiece_model
    template = {"tokenizer.chat_template": "{{ messages[0]['content'] }}"}
    write_tokenizer((metadata | template).get, epath.Path(tmp_path), "model.gguf")
    ours, wanted = open_vocabulary(str(tmp_path)), open_vocabulary(str(path))
    assert (ours.prefix_ids, ours.eos_ids, ours.unk_id) == ((1,), (2,), 0)
    for text in (*Path(__file__).read_text().splitlines(), "  日本語 \U0001f600", "a</s>b"):
        assert ours.encode(text) == wanted.encode(text)
    assert ours.chat_template.render([{"role": "user", "content": "Hi"}]) == "Hi"


def test_a_damaged_tokenizer_is_one_line(sentencepiece_model, tmp_path):
    _, metadata = sentencepiece_model
    for change, message in (
        ({"tokenizer.ggml.scores": None}, "model.gguf: has no tokenizer.ggml.scores"),
        ({"tokenizer.ggml.scores": [0.0]}, "scores: 1 for .* tokens; allowed: one for each"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type: 1 for .* tokens; allowed: one for each"),
        ({"tokenizer.ggml.tokens": "abc"}, "tokens: 'abc'; allowed: a list of str"),
        ({"tokenizer.ggml.eos_token_id": 70000}, "eos_token_id is 70000; allowed: .* from 0"),
        ({"tokenizer.ggml.bos_token_id": -1}, "bos_token_id is -1; allowed: the id of one of its"),
        ({"tokenizer.ggml.model": "gpt2"}, "has no tokenizer.ggml.merges, which 'gpt2' needs"),
        (
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["no such"]},
            "merges: 'no such'; allowed: two tokens that together are one",
        ),
        (
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a"]},
            "merges: 'a'; allowed: two tokens",
        ),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            write_tokenizer((metadata | change).get, epath.Path(tmp_path), "model.gguf")
        assert "\n" not in str(caught.value)


REFUSED = {
    "another architecture": (dict(architecture="qwen2"), "general.architecture is 'qwen2'"),
    "stretched positions": ({"llama.rope.scaling.type": "yarn"}, "scaling.type is 'yarn'"),
    "positions stretched without a type": (
        {"llama.rope.scaling.factor": 4},
        "llama.rope.scaling.factor is 4, .*allowed: 1",
    ),
    "positions stretched under the old name": (
        {"llama.rope.scale_linear": 4},
        "llama.rope.scale_linear is 4, .*allowed: 1",
    ),
    "half a head turned": ({"llama.rope.dimension_count": 32}, "dimension_count is 32"),
    "experts": ({"llama.expert_count": 8}, "num_local_experts is 8"),
    "heads that lie": (dict(kv_heads=4), r"k_proj.weight is \[128, 256\], .*=256"),
    "heads that do not divide": (dict(kv_heads=3), "num_kv_heads: 3; allowed: a divisor"),
    "another tokenizer": ({"tokenizer.ggml.model": "bert"}, "ggml.model is 'bert'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_honoured_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    metadata, message = REFUSED[name]
    write_gguf(tmp_path / "model.gguf", **metadata)
    with pytest.raises(ConfigError, match=message) as caught:
        open_source(str(tmp_path))
    assert "model.gguf" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused_in_one_line(share: float, tmp_path: Path, capsys) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert main([str(path), str(tmp_path / "out"), "--to", "hf"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "model.gguf" in error
    assert not (tmp_path / "out").exists()


def test_another_type_of_tensor_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_embedding_length(256)
    writer.add_head_count(4)
    blocks = np.zeros((4, 84), np.uint8)
    writer.add_tensor("token_embd.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q2_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="token_embd.weight is of type Q2_K.* allowed: F32, F16"):
        open_source(str(path))
