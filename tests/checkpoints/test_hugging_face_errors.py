"""Bad checkpoints: one line that names file and tensor or field, and nothing written."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hf_checkpoints import (
    T5_1_0,
    T5_1_1,
    edit_config,
    make_checkpoint,
    random_source,
    read_arrays,
    write_arrays,
)

from t5x_ext.checkpoints import open_source
from t5x_ext.checkpoints.hugging_face import open_hf, write_hf
from t5x_ext.convert import main
from t5x_ext.errors import ConfigError

WO = "encoder.block.1.layer.1.DenseReluDense.wo.weight"


def truncate_shard(directory: Path) -> None:
    path = sorted(directory.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-40])


def remove_shard(directory: Path) -> None:
    sorted(directory.glob("*.safetensors"))[1].unlink()


def swap_shards(directory: Path) -> None:
    one, two, *_ = sorted(directory.glob("*.safetensors"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def change_arrays(change):
    def damage(directory: Path) -> None:
        arrays = read_arrays(directory)
        change(arrays)
        write_arrays(directory, arrays)

    return damage


def replace_by_pipe(name: str):
    def damage(directory: Path) -> None:
        (directory / name).unlink()
        os.mkfifo(directory / name)

    return damage


def change_config(**fields):
    return lambda directory: edit_config(directory, **fields)


def write_file(name: str, text: str):
    return lambda directory: (directory / name).write_text(text)


def remove_file(name: str):
    return lambda directory: (directory / name).unlink()


ONE_FILE = {
    "renamed tensor": (
        change_arrays(lambda a: a.update({WO + "s": a.pop(WO)})),
        rf"1 missing: {WO}; 1 unknown: {WO}s",
    ),
    "additional tensor": (
        change_arrays(lambda a: a.update(adapter=a[WO])),
        "1 unknown: adapter",
    ),
    "missing layer norm": (
        change_arrays(lambda a: a.pop("decoder.final_layer_norm.weight")),
        "1 missing: decoder.final_layer_norm.weight",
    ),
    "transposed tensor": (
        change_arrays(lambda a: a.update({WO: np.ascontiguousarray(a[WO].T)})),
        rf"{WO} is \[20, 12\], config.json needs \[d_model=12, d_ff=20\]",
    ),
    "two dtypes in a stack": (
        change_arrays(lambda a: a.update({WO: a[WO].astype(ml_dtypes.bfloat16)})),
        f"differ in dtype: .*block.0.* is float32, {WO} is bfloat16",
    ),
    "wrong d_ff": (
        change_config(d_ff=21),
        r"15 of another shape: .*wi_0.* is \[20, 12\].* \[d_ff=21, d_mod",
    ),
    "wrong number of heads": (
        change_config(num_heads=4),
        r"k.weight is \[15, 12\].* needs \[num_heads \* d_kv=20, d_mo",
    ),
    "wrong vocabulary": (
        change_config(vocab_size=48),
        r"2 of another shape: .*, shared.weight is \[50, 12\].*vocab_size=48",
    ),
    "too few layers": (change_config(num_layers=1), "9 unknown: encoder.block.1"),
    "too many layers": (change_config(num_decoder_layers=4), "14 missing: decoder.block.3"),
    "size that is none": (change_config(d_kv="5"), "d_kv is '5'; allowed: an integer > 0"),
    "size not stated": (change_config(d_model=None), "d_model is None; allowed: an integer > 0"),
    "head, but tied": (
        change_config(tie_word_embeddings=True, scale_decoder_outputs=None),
        "'tie_word_embeddings': True} means an output tied .* lm_head.weight differs",
    ),
    "head, but scaled": (
        change_config(scale_decoder_outputs=True),
        "'scale_decoder_outputs': True} means an output",
    ),
    "other epsilon": (change_config(layer_norm_epsilon=1e-5), "epsilon is 1e-05; allowed: 1e-06"),
    "exact gelu": (
        change_config(feed_forward_proj="gelu"),
        "feed_forward_proj is 'gelu'; allowed: relu",
    ),
    "activations that disagree": (
        change_config(dense_act_fn="relu"),
        "dense_act_fn is 'relu', but .* means 'gelu_new'",
    ),
    "dropout": (change_config(dropout_rate=1.5), r"dropout_rate is 1.5; allowed: .* \[0, 1\)"),
    "umt5 with two tables": (
        change_config(model_type="umt5"),
        "3 missing: decoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    "longt5": (change_config(model_type="longt5"), "'longt5' is not supported .*locally"),
    "another model": (change_config(model_type="bart"), "'bart' is not supported; allowed: t5"),
    "config that is not JSON": (write_file("config.json", "{"), "config.json: is not JSON"),
    "config that is a list": (write_file("config.json", "[]"), "is not a JSON object"),
    "no weights": (remove_file("model.safetensors"), "holds no weights; allowed: model.saf"),
}
SEVERAL_FILES = {
    "truncated shard": (truncate_shard, r"model-00002-of-\d+.safetensors: is truncated: \d+ bytes"),
    "missing shard": (
        remove_shard,
        r"index.json: names model-00002-of-\d+.safetensors, which is m",
    ),
    "swapped shards": (swap_shards, "model-00001-of-.*: lacks "),
    "index without a map": (write_file("model.safetensors.index.json", "{}"), "has no weight_map"),
}


def assert_refused(directory: Path, message: str, capsys, tmp_path: Path) -> None:
    """The convert command fails with one line, and leaves nothing behind."""
    for to in ("t5x_ext", "hf"):
        status = main([str(directory), str(tmp_path / "out" / "converted"), "--to", to])
        captured = capsys.readouterr()
        assert (status, captured.out) == (1, "")  # a pickle that ran code would have printed
        assert captured.err.startswith(f"error: {directory}")
        assert captured.err.count("\n") == 1
        assert len(captured.err) < 500
        with pytest.raises(ConfigError, match=message) as error:
            open_hf(str(directory))
        assert captured.err == f"error: {error.value}\n"
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ONE_FILE)
def test_a_checkpoint_that_is_not_right_is_refused(case, tmp_path, capsys) -> None:
    damage, message = ONE_FILE[case]
    directory = make_checkpoint(tmp_path / "hf", T5_1_1)
    damage(directory)
    assert_refused(directory, message, capsys, tmp_path)


@pytest.mark.parametrize("case", SEVERAL_FILES)
def test_several_files_that_do_not_fit_are_refused(case, tmp_path, capsys) -> None:
    damage, message = SEVERAL_FILES[case]
    directory = make_checkpoint(tmp_path / "hf", T5_1_1, max_file_bytes=6000)
    damage(directory)
    assert_refused(directory, message, capsys, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "model-00002-of-00008.safetensors",
    ],
)
def test_a_pipe_is_refused_rather_than_waited_for(name, tmp_path) -> None:
    directory = make_checkpoint(tmp_path / "hf", T5_1_1, max_file_bytes=6000)
    replace_by_pipe(name)(directory)
    with pytest.raises(ConfigError, match=f"{name}: cannot be read .a pipe, socket or device"):
        open_hf(str(directory))


def test_a_pipe_for_all_weights_is_refused(tmp_path) -> None:
    directory = make_checkpoint(tmp_path / "hf", T5_1_1)
    replace_by_pipe("model.safetensors")(directory)
    with pytest.raises(ConfigError, match="model.safetensors: cannot be read .a pipe, socket"):
        open_hf(str(directory))
    # A pickle's reader opens files by itself.
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pytorch_model.bin: cannot be read .a pipe, socket"):
        open_hf(str(directory))


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_pipe_in_a_checkpoint_of_a_run_is_refused(name, tmp_path) -> None:
    directory = make_checkpoint(tmp_path / "checkpoint_5", T5_1_1)
    (directory / "manifest.json").touch()
    replace_by_pipe(name)(directory)
    with pytest.raises(ConfigError, match=f"{name}: neither a file nor a directory"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(tie_word_embeddings=False, scale_decoder_outputs=None), "no lm_head.weight"),
        (dict(scale_decoder_outputs=False), "not scaled, but there is no lm_head.weight"),
        (dict(model_type="mt5"), "an mt5 checkpoint without lm_head.weight"),
    ],
)
def test_a_tied_model_that_claims_not_to_be_is_refused(fields, message, tmp_path, capsys) -> None:
    directory = make_checkpoint(tmp_path / "hf", T5_1_0)
    edit_config(directory, **fields)
    assert_refused(directory, message, capsys, tmp_path)


def test_nothing_is_written_over(tmp_path) -> None:
    source = open_hf(str(make_checkpoint(tmp_path / "hf", T5_1_1)))
    before = (tmp_path / "hf" / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="hf: already exists"):
        write_hf(source, str(tmp_path / "hf"))
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == before


def test_a_shard_that_shrinks_while_it_is_read_leaves_nothing(tmp_path) -> None:
    directory = make_checkpoint(tmp_path / "hf", T5_1_1)
    source = open_hf(str(directory))
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError):
        write_hf(source, str(tmp_path / "out" / "again"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_activation_without_a_name_in_transformers_is_refused(tmp_path) -> None:
    source = random_source(dataclasses.replace(T5_1_1, mlp_activations=("linear", "gelu")))
    with pytest.raises(ConfigError, match="mlp_activations: .* has no name in transformers"):
        write_hf(source, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_pickle_without_pytorch_says_what_to_install(tmp_path) -> None:
    directory = make_checkpoint(tmp_path / "hf", T5_1_1)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from t5x_ext.convert import main\n"
        f"sys.exit(main([{str(directory)!r}, {str(tmp_path / 'out')!r}, '--to', 't5x_ext']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {directory}/pytorch_model.bin: a pickle is read through PyTorch, which is not"
        " installed; pip install 't5x_ext[torch]', or give the checkpoint as safetensors\n"
    )
    assert not (tmp_path / "out").exists()


def save_pickles(directory: Path, torch) -> None:
    """Replaces model.safetensors by two pickles and their index."""
    weights = {name: torch.from_numpy(array) for name, array in read_arrays(directory).items()}
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    files = {"pytorch_model-00001-of-00002.bin": names[:20]}
    files["pytorch_model-00002-of-00002.bin"] = names[20:]
    for file, part in files.items():
        torch.save({name: weights[name] for name in part}, directory / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def test_pickles_are_read_like_safetensors(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    directory = make_checkpoint(tmp_path / "hf", T5_1_1)
    expected = {name: t.whole() for name, t in open_hf(str(directory)).tensors.items()}
    save_pickles(directory, torch)
    opened = open_hf(str(directory))
    for name, values in expected.items():
        np.testing.assert_array_equal(opened.tensors[name].whole(), values)
        part = (slice(1, 2),) * values.ndim
        np.testing.assert_array_equal(opened.tensors[name].read(part), values[part])


class _Harmful:
    def __reduce__(self):
        return print, ("a pickle has run code",)


@pytest.mark.parametrize("case", ["code", "truncated", "old format", "number"])
def test_pickles_that_are_not_tensors_only_are_refused(case, tmp_path, capsys) -> None:
    torch = pytest.importorskip("torch")
    directory = make_checkpoint(tmp_path / "hf", T5_1_1)
    weights = {name: torch.from_numpy(array) for name, array in read_arrays(directory).items()}
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    if case == "code":
        weights[WO] = _Harmful()
    elif case == "number":
        weights[WO] = 3
    torch.save(weights, path, _use_new_zipfile_serialization=case != "old format")
    if case == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    message = f"{WO} is a int" if case == "number" else "PyTorch cannot read it as tensors only"
    assert_refused(directory, f"pytorch_model.bin: {message}", capsys, tmp_path)
