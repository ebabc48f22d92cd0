"""Hugging Face checkpoints in and out: names, layouts, conventions, bits."""

from __future__ import annotations

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from hf_checkpoints import (
    T5_1_0,
    T5_1_1,
    UMT5,
    edit_config,
    make_checkpoint,
    random_source,
    read_arrays,
    write_arrays,
)

from mixtures.vocabularies import bundled_vocabulary, open_vocabulary
from t5x_ext.checkpoints import load_params
from t5x_ext.checkpoints.hugging_face import open_hf, write_hf
from t5x_ext.checkpoints.hugging_face.families import family_by_model_type
from t5x_ext.checkpoints.sources import LazyTensor
from t5x_ext.errors import ConfigError
from t5x_ext.models import EncoderDecoderModel
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.models.parameters import path_name
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.training.state import abstract_params

# The fields of published files that tell the models apart, as published.
PUBLISHED = {
    "t5-small": (
        dict(model_type="t5", d_ff=2048, d_kv=64, d_model=512, dropout_rate=0.1,
             initializer_factor=1.0, is_encoder_decoder=True, layer_norm_epsilon=1e-06,
             n_positions=512, num_heads=8, num_layers=6, output_past=True,
             relative_attention_num_buckets=32, vocab_size=32128),
        T5Config(32128, "float32", 512, 8, 6, 6, 64, 2048, ("relu",), 0.1, True),
    ),
    "google/flan-t5-xl": (
        dict(model_type="t5", d_ff=5120, d_kv=64, d_model=2048, dropout_rate=0.1,
             feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-06, num_decoder_layers=24,
             num_heads=32, num_layers=24, relative_attention_max_distance=128,
             relative_attention_num_buckets=32, tie_word_embeddings=False,
             torch_dtype="float32", vocab_size=32128),
        T5Config(32128, "float32", 2048, 32, 24, 24, 64, 5120, ("gelu", "linear"), 0.1, False),
    ),
    "google/byt5-small": (
        dict(model_type="t5", d_ff=3584, d_kv=64, d_model=1472, dropout_rate=0.1,
             feed_forward_proj="gated-gelu", gradient_checkpointing=False,
             layer_norm_epsilon=1e-06, num_decoder_layers=4, num_heads=6, num_layers=12,
             relative_attention_num_buckets=32, tie_word_embeddings=False, vocab_size=384),
        T5Config(384, "float32", 1472, 6, 12, 4, 64, 3584, ("gelu", "linear"), 0.1, False),
    ),
    "google/mt5-small": (
        dict(model_type="mt5", d_ff=1024, d_kv=64, d_model=512, dropout_rate=0.1,
             feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-06, num_decoder_layers=8,
             num_heads=6, num_layers=8, relative_attention_num_buckets=32,
             tie_word_embeddings=False, vocab_size=250112),
        T5Config(250112, "float32", 512, 6, 8, 8, 64, 1024, ("gelu", "linear"), 0.1, False),
    ),
    "google/umt5-small": (
        dict(model_type="umt5", d_ff=1024, d_kv=64, d_model=512, dropout_rate=0.1,
             feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-06, num_decoder_layers=8,
             num_heads=6, num_layers=8, relative_attention_num_buckets=32,
             tie_word_embeddings=False, vocab_size=256384),
        T5Config(256384, "float32", 512, 6, 8, 8, 64, 1024, ("gelu", "linear"), 0.1, False,
                 position_table_per_layer=True),
    ),
}  # fmt: skip


def assert_same_tensors(left, right) -> None:
    assert left.tensors.keys() == right.tensors.keys()
    for name, tensor in left.tensors.items():
        other = right.tensors[name]
        assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype), name
        assert tensor.whole().tobytes() == other.whole().tobytes(), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_understood(name: str) -> None:
    raw, expected = PUBLISHED[name]
    # Only the files say whether there is a head.
    table = LazyTensor((1, 1), np.dtype(np.float32), lambda index: np.zeros((1, 1), np.float32))
    tensors = {"shared.weight": table}
    if not expected.logits_via_embedding:
        tensors["lm_head.weight"] = table
    family = family_by_model_type(raw["model_type"], "config.json")
    assert family.read(raw, tensors, "config.json")[0] == expected
    # And what we write for it says the same.
    again = family.write(expected, raw["model_type"])
    assert {field: again.get(field) for field in raw.keys() & again.keys()} == {
        field: raw[field] for field in raw.keys() & again.keys()
    }
    assert family.read(again, tensors, "config.json")[0] == expected


def test_a_position_table_of_other_size_is_kept(tmp_path) -> None:
    cfg = T5_1_1.replace(relative_attention_buckets=64, relative_attention_max_distance=256)
    write_hf(random_source(cfg), str(tmp_path / "hf"))
    assert open_hf(str(tmp_path / "hf")).config == cfg


@pytest.mark.parametrize("cfg", [T5_1_0, T5_1_1, UMT5], ids=["1.0", "1.1", "umT5"])
@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16], ids=str)
def test_out_and_in_again_is_bit_exact(cfg, dtype, tmp_path) -> None:
    source = random_source(cfg, dtype)
    write_hf(source, str(tmp_path / "hf"))
    opened = open_hf(str(tmp_path / "hf"))
    assert (opened.kind, opened.config) == ("hf", cfg)
    assert_same_tensors(source, opened)
    assert opened.meta["hugging_face"]["dtype"] == np.dtype(dtype).name


def test_tensors_lie_as_transformers_has_them(tmp_path) -> None:
    source = random_source(T5_1_1)
    write_hf(source, str(tmp_path / "hf"))
    arrays = read_arrays(tmp_path / "hf")
    kernel = source.tensors["decoder/layers/encoder_decoder_attention/key/kernel"].whole()
    for i in range(T5_1_1.num_decoder_layers):
        theirs = arrays[f"decoder.block.{i}.layer.1.EncDecAttention.k.weight"]
        np.testing.assert_array_equal(theirs, kernel[i].T)
    # 2 x 9 + 3 x 14 in the layers, two final norms, two position tables, embedding and head.
    assert len(arrays) == 2 * 9 + 3 * 14 + 6


def test_umt5_has_a_position_table_in_every_layer(tmp_path) -> None:
    source = random_source(UMT5)
    write_hf(source, str(tmp_path / "hf"))
    arrays = read_arrays(tmp_path / "hf")
    for stack, depth in (("encoder", 2), ("decoder", 3)):
        tables = source.tensors[f"{stack}/layers/relpos_bias/rel_embedding"].whole()
        for i in range(depth):
            attention = f"{stack}.block.{i}.layer.0.SelfAttention"
            theirs = arrays[f"{attention}.relative_attention_bias.weight"]
            np.testing.assert_array_equal(theirs, tables[i].T)
    # As of 1.1, and tables in the other three layers.
    assert len(arrays) == 2 * 9 + 3 * 14 + 6 + 3
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == (
        "umt5",
        ["UMT5ForConditionalGeneration"],
    )
    edit_config(tmp_path / "hf", model_type="mt5")
    with pytest.raises(ConfigError, match="3 unknown: .*block.1.*relative_attention_bias"):
        open_hf(str(tmp_path / "hf"))


def test_dtype_on_the_way_out_is_rounding_once(tmp_path) -> None:
    source = random_source(T5_1_1)
    write_hf(source, str(tmp_path / "hf"), dtype="bfloat16")
    opened = open_hf(str(tmp_path / "hf"))
    for name, tensor in source.tensors.items():
        expected = tensor.whole().astype(ml_dtypes.bfloat16)
        assert expected.tobytes() == opened.tensors[name].whole().tobytes()
    assert opened.meta["hugging_face"]["torch_dtype"] == "bfloat16"


def test_weights_of_several_dtypes_keep_theirs(tmp_path) -> None:
    source = random_source(T5_1_1, ml_dtypes.bfloat16)
    wide = random_source(T5_1_1)
    name = "encoder/layers/mlp/wo/kernel"  # transformers keeps it in float32
    source = dataclasses.replace(source, tensors={**source.tensors, name: wide.tensors[name]})
    write_hf(source, str(tmp_path / "hf"))
    opened = open_hf(str(tmp_path / "hf"))
    assert_same_tensors(source, opened)
    assert opened.meta["hugging_face"]["dtype"] == "bfloat16"
    # Wider ones come first: each tensor then starts at a multiple of its item size.
    sizes = [array.dtype.itemsize for array in read_arrays(tmp_path / "hf").values()]
    assert sizes == sorted(sizes, reverse=True)


def test_a_part_is_that_part_of_the_whole(tmp_path) -> None:
    opened = open_hf(str(make_checkpoint(tmp_path / "hf", T5_1_1)))
    rng = np.random.default_rng(0)
    for name, tensor in opened.tensors.items():
        whole = tensor.whole()
        for _ in range(5):
            bounds = (sorted(rng.choice(n + 1, 2, replace=False)) for n in tensor.shape)
            index = tuple(slice(int(a), int(b)) for a, b in bounds)
            part = tensor.read(index)
            assert part.flags.c_contiguous
            np.testing.assert_array_equal(part, whole[index], err_msg=name)


def test_weights_go_straight_onto_a_mesh(tmp_path) -> None:
    cfg = T5Config(64, "float32", 16, 4, 2, 3, 8, 32, ("gelu", "linear"))
    source = random_source(cfg)
    write_hf(source, str(tmp_path / "hf"))
    model = EncoderDecoderModel(Transformer(cfg))
    wanted = abstract_params(model, PjitPartitioner(data=2, fsdp=2, model=2))
    loaded = load_params(str(tmp_path / "hf"), wanted, dtype="bfloat16")
    kernel = loaded["decoder"]["layers"]["self_attention"]["out"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (3, 32 // 2, 16 // 2)
    for path, leaf in jax.tree_util.tree_leaves_with_path(loaded):
        expected = source.tensors[path_name(path)].whole().astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(np.asarray(leaf), expected)


def test_a_large_model_is_split_into_files_with_an_index(tmp_path) -> None:
    one = open_hf(str(make_checkpoint(tmp_path / "one", T5_1_1)))
    many = open_hf(str(make_checkpoint(tmp_path / "many", T5_1_1, max_file_bytes=6000)))
    assert_same_tensors(one, many)
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert len(files) > 3
    assert {path.name for path in files} == set(index["weight_map"].values())
    total = sum(array.nbytes for array in read_arrays(tmp_path / "one").values())
    assert index["metadata"]["total_size"] == total
    assert max(path.stat().st_size for path in files) < 6000 + 4000  # and a header
    assert one.digest != many.digest


def test_the_digest_is_of_the_weights_and_not_of_the_directory(tmp_path) -> None:
    first = open_hf(str(make_checkpoint(tmp_path / "a", T5_1_1)))
    second_dir = make_checkpoint(tmp_path / "b", T5_1_1)
    (second_dir / "README.md").write_text("notes")
    assert open_hf(str(second_dir)).digest == first.digest
    arrays = read_arrays(second_dir)
    arrays["lm_head.weight"][3, 3] += 1
    write_arrays(second_dir, arrays)
    assert open_hf(str(second_dir)).digest != first.digest


def test_untied_output_in_the_words_of_transformers_4_and_5(tmp_path) -> None:
    directory = make_checkpoint(tmp_path / "hf", T5_1_1)
    edit_config(directory, tie_word_embeddings=False, scale_decoder_outputs=None)  # 4
    assert open_hf(str(directory)).config == T5_1_1
    edit_config(directory, tie_word_embeddings=True, scale_decoder_outputs=False)  # 5
    assert open_hf(str(directory)).config == T5_1_1
    edit_config(directory, model_type="mt5", scale_decoder_outputs=None)  # 5, of an mT5
    opened = open_hf(str(directory))
    assert opened.config == T5_1_1
    write_hf(opened, str(tmp_path / "again"))
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (written["model_type"], written["tie_word_embeddings"]) == ("mt5", False)


def test_old_configs_do_not_state_what_is_the_default(tmp_path) -> None:
    directory = make_checkpoint(tmp_path / "hf", T5_1_0)
    defaults = (
        "tie_word_embeddings",
        "scale_decoder_outputs",
        "feed_forward_proj",
        "dense_act_fn",
        "is_gated_act",
        "relative_attention_num_buckets",
        "relative_attention_max_distance",
        "dtype",
    )
    edit_config(directory, **dict.fromkeys(defaults))
    assert open_hf(str(directory)).config == T5_1_0


@pytest.mark.parametrize("cfg", [T5_1_0, T5_1_1], ids=["1.0", "1.1"])
def test_copies_of_the_embedding_are_compared_and_left_out(cfg, tmp_path) -> None:
    source = open_hf(str(make_checkpoint(tmp_path / "hf", cfg)))
    directory = make_checkpoint(tmp_path / "changed", cfg)
    arrays = read_arrays(directory)
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    copies += ["lm_head.weight"] if cfg.logits_via_embedding else []
    write_arrays(directory, arrays | {name: arrays["shared.weight"] for name in copies})
    assert_same_tensors(source, open_hf(str(directory)))
    # Some files hold one of the copies only.
    renamed = dict(arrays)
    renamed["decoder.embed_tokens.weight"] = renamed.pop("shared.weight")
    write_arrays(directory, renamed)
    assert_same_tensors(source, open_hf(str(directory)))
    for name in copies:
        write_arrays(directory, arrays | {name: arrays["shared.weight"] * 2})
        with pytest.raises(ConfigError, match=f"{name} differs"):
            open_hf(str(directory))


def test_the_table_that_no_forward_pass_reads_is_left_out(tmp_path) -> None:
    source = open_hf(str(make_checkpoint(tmp_path / "hf", T5_1_0)))
    directory = make_checkpoint(tmp_path / "changed", T5_1_0)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    write_arrays(directory, read_arrays(directory) | {name: np.zeros((32, 3), "f4")})
    assert_same_tensors(source, open_hf(str(directory)))


def test_generation_config_and_origin_are_written(tmp_path) -> None:
    directory = make_checkpoint(tmp_path / "hf", T5_1_1)
    assert json.loads((directory / "generation_config.json").read_text()) == {
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(directory / "model.safetensors", "np") as file:
        assert file.metadata() == {
            "format": "pt",
            "source": "memory",
            "source_kind": "t5x_ext",
            "source_sha256": "0" * 64,
        }


def test_the_tokenizer_travels_along(tmp_path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    vocabulary = bundled_vocabulary()
    with open(vocabulary.path, "rb") as file:
        (folder / "spiece.model").write_bytes(file.read())
    source = random_source(T5_1_1, tokenizer_dir=str(folder))
    write_hf(source, str(tmp_path / "first"))
    # The files of the first are copied, where those of the source had to be completed.
    opened = open_hf(str(tmp_path / "first"))
    write_hf(opened, str(tmp_path / "second"))
    text = "Definition: answer the question. Input: Where is the cat? Output:"
    expected = open_vocabulary(str(folder)).encode(text)
    assert open_vocabulary(str(tmp_path / "second")).encode(text) == expected
    transformers = pytest.importorskip("transformers")
    for name in ("first", "second"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / name))
        assert tokenizer(text).input_ids == [*expected, 1]
        sentinels = tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"])
        assert sentinels == [vocabulary.vocab_size + 99, vocabulary.vocab_size]
