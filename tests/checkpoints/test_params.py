"""Parameters alone: from any checkpoint, onto any devices, told apart by a fingerprint."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_ext.checkpoints import (
    Checkpointer,
    fingerprint,
    load,
    load_meta,
    load_params,
    open_source,
    save_params,
)
from t5x_ext.errors import ConfigError


def make_params(seed=0):
    return {
        "embed": jax.random.normal(jax.random.key(seed), (8, 16)),
        "layers": {"kernel": jnp.full((16, 4), 1.5, jnp.bfloat16)},
    }


def make_run(model_dir, steps):
    with Checkpointer(str(model_dir)) as checkpointer:
        for step in steps:
            state = {
                "step": jnp.int32(step),
                "params": make_params(step),
                "opt_state": (jnp.zeros(3), {"mu": make_params()}),
            }
            checkpointer.save(step, state, {}, {"at": step}, force=True)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_saved_parameters_come_back(tmp_path):
    path = str(tmp_path / "initial")
    save_params(path, make_params(3), {"train_secs": 1.5})
    assert_same(load_params(path, jax.eval_shape(make_params)), make_params(3))
    assert load_meta(path) == {"train_secs": 1.5}
    with pytest.raises(ConfigError, match="already exists"):
        save_params(path, make_params(4), {})
    assert_same(load_params(path, jax.eval_shape(make_params)), make_params(3))


def test_parameters_of_a_training_checkpoint(tmp_path):
    make_run(tmp_path, [1, 2])
    wanted = jax.eval_shape(make_params)
    assert_same(load_params(str(tmp_path), wanted), make_params(2))
    assert_same(load_params(str(tmp_path / "checkpoint_1"), wanted), make_params(1))
    assert load_meta(str(tmp_path)) == {"at": 2}


def test_a_damaged_newest_checkpoint_is_passed_over_but_left_in_place(tmp_path, caplog):
    make_run(tmp_path, [1, 2])
    shutil.rmtree(tmp_path / "checkpoint_2" / "state")
    assert_same(load_params(str(tmp_path), jax.eval_shape(make_params)), make_params(1))
    assert load_meta(str(tmp_path)) == {"at": 1}
    assert len(caplog.records) == 1
    assert (tmp_path / "checkpoint_2").is_dir()
    shutil.rmtree(tmp_path / "checkpoint_1" / "state" / "d")
    with pytest.raises(ConfigError, match="checkpoint_1 cannot be read"):
        load_params(str(tmp_path / "checkpoint_1"), jax.eval_shape(make_params))


def test_parameters_and_what_is_said_of_them_are_of_one_checkpoint(tmp_path):
    """Values that cannot be unpacked are noticed when they are read, not before."""
    values = [{"kernel": jax.random.normal(jax.random.key(step), (64, 64))} for step in range(3)]
    with Checkpointer(str(tmp_path)) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"params": values[step]}, {}, {"step": step}, force=True)
    files = [path for path in (tmp_path / "checkpoint_2").rglob("d/*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes().replace(bytes.fromhex("28b52ffd"), b"zstd"))
    assert open_source(str(tmp_path)).step == 2
    loaded = load(str(tmp_path))
    assert_same(loaded.params, jax.tree.map(np.asarray, values[1]))
    assert loaded.source.step == 1


def test_without_a_wanted_tree_everything_is_read_to_the_host(tmp_path):
    path = str(tmp_path / "initial")
    save_params(path, make_params(3), {})
    params = load_params(path)
    assert isinstance(params["embed"], np.ndarray)
    assert_same(params, jax.tree.map(np.asarray, make_params(3)))
    assert load_params(path, dtype="bfloat16")["embed"].dtype == jnp.bfloat16


def test_placement_and_dtype_are_the_wanted_ones(tmp_path):
    path = str(tmp_path / "initial")
    save_params(path, make_params(3), {})
    place = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data"))
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=place),
        jax.eval_shape(make_params),
    )
    params = load_params(path, wanted)
    assert params["layers"]["kernel"].dtype == jnp.float32
    assert params["embed"].sharding == place
    assert params["embed"].addressable_shards[0].data.shape == (2, 16)
    assert load_params(path, wanted, dtype="bfloat16")["embed"].dtype == jnp.bfloat16


def test_wrong_trees_are_named(tmp_path):
    path = str(tmp_path / "initial")
    save_params(path, make_params(), {})
    extra = {f"layer_{i}": jax.ShapeDtypeStruct((2,), jnp.float32) for i in range(6)}
    with pytest.raises(ConfigError, match=r"6 missing .*params/layer_0, .* and 2 more"):
        load_params(path, {**jax.eval_shape(make_params), **extra})
    with pytest.raises(ConfigError, match="1 not in the model: params/layers/kernel"):
        load_params(path, {"embed": jax.eval_shape(make_params)["embed"]})


def test_paths_that_hold_no_checkpoint(tmp_path):
    with pytest.raises(ConfigError, match="no such directory"):
        load_params(str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="holds no checkpoint; allowed: a checkpoint_<step>"):
        load_params(str(tmp_path))
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        fingerprint(str(tmp_path))


@pytest.mark.parametrize("end", ["", ".index", ".data-00000-of-00002", None])
def test_a_tensorflow_checkpoint_is_refused_by_name(tmp_path, end):
    prefix = tmp_path / "model.ckpt-1000000"
    for suffix in (".index", ".meta", ".data-00000-of-00002", ".data-00001-of-00002"):
        Path(f"{prefix}{suffix}").write_bytes(b"")
    path = str(tmp_path) if end is None else f"{prefix}{end}"
    message = f"^{path}: a TensorFlow checkpoint, which is not read; allowed: T5X's native ones, .*"
    with pytest.raises(ConfigError, match=message + "convert_tf_checkpoint"):
        open_source(path)


def test_fingerprint_of_saved_parameters_is_that_of_their_content(tmp_path):
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        save_params(str(tmp_path / name), make_params(seed), {"name": name})
    a, again, b = (fingerprint(str(tmp_path / name)) for name in ("a", "again", "b"))
    assert a == again != b
    renamed = {"embed": make_params(1)["embed"], "other": make_params(1)["layers"]}
    save_params(str(tmp_path / "renamed"), renamed, {})
    assert fingerprint(str(tmp_path / "renamed")) != a


def test_fingerprint_of_a_training_checkpoint_survives_a_copy(tmp_path):
    make_run(tmp_path / "run", [1, 2])
    shutil.copytree(tmp_path / "run" / "checkpoint_2", tmp_path / "copy")
    newest = fingerprint(str(tmp_path / "run"))
    assert newest == fingerprint(str(tmp_path / "copy"))
    assert newest != fingerprint(str(tmp_path / "run" / "checkpoint_1"))
