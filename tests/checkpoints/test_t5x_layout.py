"""T5X's checkpoints: each layout and network of it read bit-exactly, ours written as it reads."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from flax import serialization
from hf_checkpoints import random_source
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from t5x_fixtures import (
    BFLOAT16,
    GATED,
    PER_LAYER,
    TIED,
    make_t5,
    nest,
    ours,
    packed,
    read_as_t5x,
    to_scalable,
    write_array,
    write_checkpoint,
)

from t5x_ext.checkpoints import (
    fingerprint,
    load_meta,
    load_params,
    open_source,
    tensorstores,
    trees,
)
from t5x_ext.checkpoints.sources import Source
from t5x_ext.checkpoints.t5x_layout import flax_msgpack, write_t5x
from t5x_ext.errors import ConfigError
from t5x_ext.models import network
from t5x_ext.models.families import config_to_json
from t5x_ext.models.network import T5Config
from t5x_ext.models.parameters import abstract_params


def assert_holds(source: Source, params: dict[str, np.ndarray]) -> None:
    """Every tensor of the source is the one of `make_t5`, bit by bit."""
    wanted = ours(params)
    assert source.tensors.keys() == wanted.keys()
    for name, tensor in source.tensors.items():
        found = tensor.whole()
        assert (found.dtype, found.shape) == (wanted[name].dtype, wanted[name].shape), name
        assert found.tobytes() == wanted[name].tobytes(), name
        assert found.flags.c_contiguous


NETWORKS = {
    "t5": lambda params: params,
    "scalable_t5 scanned": lambda params: to_scalable(params, scanned=True),
    "scalable_t5": lambda params: to_scalable(params, scanned=False),
}


@pytest.mark.parametrize("form", NETWORKS)
@pytest.mark.parametrize("config", [GATED, TIED], ids=["gated", "tied"])
def test_t5x_checkpoints_are_read_bit_exactly(tmp_path, form, config):
    params = make_t5(config)
    path = tmp_path / "checkpoint_1000"
    write_checkpoint(path, NETWORKS[form](params), step=1000, gs=config is TIED)
    source = open_source(str(path))
    assert (source.kind, source.step, source.config) == ("t5x", 1000, config)
    assert_holds(source, params)
    # T5X's users name the index itself, or the run's directory.
    assert_holds(open_source(str(path / "checkpoint")), params)
    assert open_source(str(tmp_path)).path == str(path)
    assert load_meta(str(path)) == {"step": 1000}


@pytest.mark.parametrize("form", NETWORKS)
def test_any_slice_is_the_same_as_of_the_whole(tmp_path, form):
    params = make_t5(GATED if form == "t5" else PER_LAYER)
    write_checkpoint(tmp_path / "checkpoint_1", NETWORKS[form](params))
    wanted = ours(params)
    rng = np.random.default_rng(1)
    for name, tensor in open_source(str(tmp_path)).tensors.items():
        for _ in range(4):
            ends = [sorted(rng.integers(0, size + 1, 2)) for size in tensor.shape]
            index = tuple(slice(int(start), int(stop)) for start, stop in ends)
            np.testing.assert_array_equal(tensor.read(index), wanted[name][index])


def test_a_slice_reads_the_files_it_needs_and_no_others(tmp_path):
    write_checkpoint(tmp_path / "checkpoint_1", make_t5(GATED))
    shutil.rmtree(
        tmp_path / "checkpoint_1" / "state.param_states.encoder.layers_0.mlp.wo.kernel.v_row"
    )
    source = open_source(str(tmp_path))
    kernel = "target.encoder.layers_1.mlp.wo.kernel"
    (tmp_path / "checkpoint_1" / kernel / "1.0").unlink()
    tensor = source.tensors["encoder/layers/mlp/wo/kernel"]
    assert tensor.read((slice(0, 1), slice(None), slice(None))).shape == (1, 10, 6)
    assert tensor.read((slice(None), slice(0, 5), slice(None))).shape == (2, 5, 6)
    with pytest.raises(ValueError, match=kernel):
        tensor.whole()


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_what_is_written_reads_back_as_t5x_reads(tmp_path, scan_layers, dtype):
    params = make_t5(GATED)
    write_checkpoint(tmp_path / "checkpoint_70", params, step=70)
    source = open_source(str(tmp_path / "checkpoint_70"))
    made = tmp_path / "made" / "checkpoint_70"
    write_t5x(source, str(made), scan_layers, dtype)
    stored = {n: v.astype(BFLOAT16) if dtype else v for n, v in params.items()}
    wanted = to_scalable(stored, scanned=True) if scan_layers else stored
    found, step = read_as_t5x(made)
    assert step == 70
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert value.dtype == wanted[name].dtype
        assert value.tobytes() == np.ascontiguousarray(wanted[name]).tobytes(), name
    assert_holds(open_source(str(made)), stored)


def test_what_t5x_does_not_state_survives_our_own_writing(tmp_path):
    write_checkpoint(tmp_path / "checkpoint_5", make_t5(GATED), step=5)
    source = open_source(str(tmp_path / "checkpoint_5"))
    config = dataclasses.replace(GATED, mlp_activations=("silu", "linear"), dropout_rate=0.0)
    source = dataclasses.replace(source, config=config, meta={"seed": 3})
    write_t5x(source, str(tmp_path / "made"))
    made = open_source(str(tmp_path / "made"))
    assert made.config == config
    assert made.meta["seed"] == 3
    origin = {"path": source.path, "kind": "t5x", "sha256": source.digest}
    assert made.meta["source"] == origin


def test_an_array_in_pieces_is_one_leaf_of_the_index(monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    value = np.arange(6.0).reshape(2, 3)
    raw = flax_msgpack.encode({"a": {"b": value, "c": np.ones(2, BFLOAT16)}})
    assert raw.count(b"__msgpack_chunked_array__") == 1
    leaves = dict(flax_msgpack.named_leaves(flax_msgpack.decode(raw)))
    np.testing.assert_array_equal(leaves["a/b"], value)
    assert leaves["a/c"].dtype == BFLOAT16


def train_state(params: dict[str, np.ndarray], sharding: NamedSharding) -> dict:
    """T5X's FlaxOptimTrainState.state_dict() with Adafactor, spread over devices."""
    place = lambda value: jax.device_put(value, sharding)  # noqa: E731
    statistics = {f"{name}/v": jnp.zeros(value.shape) for name, value in params.items()}
    return {
        "target": jax.tree.map(place, nest(params)),
        "state": {"step": jnp.int32(12), "param_states": nest(statistics)},
    }


@pytest.mark.parametrize("ocdbt", [False, True], ids=["zarr", "ocdbt"])
@pytest.mark.parametrize("item", ["checkpoint_12/state", "checkpoint_12"])
def test_orbax_layouts_of_eight_devices_restore_on_one_and_four(tmp_path, ocdbt, item):
    params = make_t5(GATED)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    state = train_state(to_scalable(params, scanned=True), NamedSharding(mesh, PartitionSpec()))
    embedding = state["target"]["token_embedder"]
    embedding["embedding"] = jax.device_put(
        embedding["embedding"], NamedSharding(mesh, PartitionSpec("b", "a"))
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)) as writer:
        writer.save(tmp_path / item, args=ocp.args.PyTreeSave(state))
    source = open_source(str(tmp_path / "checkpoint_12"))
    assert (source.kind, source.step, source.config) == ("t5x", 12, GATED)
    assert_holds(source, params)
    for count in (1, 4):
        mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
        wanted = placed_on(mesh)
        restored = load_params(str(tmp_path), wanted)
        for name, value in trees.named_leaves(restored).items():
            assert value.sharding == trees.named_leaves(wanted)[name].sharding
            assert np.asarray(value).tobytes() == ours(params)[name].tobytes(), name


def placed_on(mesh: Mesh) -> dict:
    """The model's parameters, the embedding spread over the mesh and the rest replicated."""

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec("data" if path[-1].key == "embedding" else None)
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(
        place, abstract_params(network.Transformer(GATED).specs)
    )


def test_orbax_placeholders_in_an_index(tmp_path):
    params = make_t5(TIED)
    state = tmp_path / "checkpoint_9" / "state"
    state.mkdir(parents=True)
    target = {}
    for name, value in params.items():
        write_array(state, f"target/{name}", value)
        target[name] = f"PLACEHOLDER://target.{name.replace('/', '.')}"
    tree = {"target": nest(target), "state": {"step": 9, "param_states": {}}, "flax_mutables": None}
    (state / "checkpoint").write_bytes(flax_msgpack.encode(tree))
    source = open_source(str(tmp_path))
    assert source.step == 9
    assert_holds(source, params)


def test_arrays_copied_without_their_index(tmp_path):
    params = make_t5(TIED)
    for name, value in params.items():
        write_array(tmp_path / "checkpoint_9", f"target/{name}", value)
    source = open_source(str(tmp_path / "checkpoint_9"))
    assert source.step == 9
    assert_holds(source, params)


def test_fingerprint_is_that_of_the_weights(tmp_path):
    write_checkpoint(tmp_path / "a" / "checkpoint_1", make_t5(GATED, seed=1))
    write_checkpoint(tmp_path / "b" / "checkpoint_1", make_t5(GATED, seed=2))
    shutil.copytree(tmp_path / "a" / "checkpoint_1", tmp_path / "copy")
    for directory in (tmp_path / "copy").glob("state.*"):
        shutil.rmtree(directory)  # the optimizer's statistics do not count
    assert fingerprint(str(tmp_path / "a")) == fingerprint(str(tmp_path / "copy"))
    assert fingerprint(str(tmp_path / "a")) != fingerprint(str(tmp_path / "b"))


def edit_index(checkpoint: Path, edit) -> None:
    index = flax_msgpack.decode((checkpoint / "checkpoint").read_bytes())
    edit(index)
    (checkpoint / "checkpoint").write_bytes(flax_msgpack.encode(index))


def drop(index: dict) -> None:
    del index["optimizer"]["target"]["decoder"]["layers_1"]["mlp"]["wo"]


def rename(index: dict) -> None:
    mlp = index["optimizer"]["target"]["encoder"]["layers_0"]["mlp"]
    mlp["wo_2"] = mlp.pop("wo")


def add(index: dict) -> None:
    index["optimizer"]["flax_mutables"] = {"cache": packed(np.zeros(1, np.float32))}


def reshape(index: dict) -> None:
    norms = index["optimizer"]["target"]["encoder"]["encoder_norm"]
    norms["scale"] = np.ones(5, np.float32)


def halve(index: dict) -> None:
    norms = index["optimizer"]["target"]["encoder"]["encoder_norm"]
    norms["scale"] = np.ones(6, np.float16)


def age(index: dict) -> None:
    index["version"] = 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop, "1 missing in the checkpoint: decoder/layers_1/mlp/wo/kernel"),
        (
            rename,
            "1 missing in the checkpoint: encoder/layers_0/mlp/wo/kernel; 1 not in the model:"
            " encoder/layers_0/mlp/wo_2/kernel",
        ),
        (add, "holds flax_mutables/cache; known are target/..., state/step"),
        (reshape, r"encoder/encoder_norm/scale \(saved \(5,\), wanted \(6,\)\)"),
        (halve, "target/encoder/encoder_norm/scale is float16; allowed: float32, bfloat16"),
        (age, r"version 1; allowed: \(2, 3\)"),
    ],
)
def test_other_models_are_refused_by_name(tmp_path, edit, message):
    path = tmp_path / "checkpoint_1"
    write_checkpoint(path, make_t5(GATED))
    edit_index(path, edit)
    with pytest.raises(ConfigError, match=message) as caught:
        open_source(str(path))
    assert "\n" not in str(caught.value)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "checkpoint_1"
    write_checkpoint(path, make_t5(GATED))
    index = (path / "checkpoint").read_bytes()
    (path / "checkpoint").write_bytes(index[: len(index) // 2])
    with pytest.raises(
        ConfigError, match="cannot be read: .*checkpoint: not MessagePack, or cut off"
    ):
        open_source(str(path))
    (path / "checkpoint").write_bytes(b'model_checkpoint_path: "model.ckpt-1000"')
    with pytest.raises(ConfigError, match="a TensorFlow checkpoint, which is not read"):
        open_source(str(path))
    (path / "checkpoint").write_bytes(index)
    shutil.rmtree(path / "target.token_embedder.embedding")
    with pytest.raises(
        ConfigError, match="cannot be read: target.token_embedder.embedding: NOT_FOUND"
    ):
        open_source(str(path))


@pytest.mark.slow(but="scanned-legacy")
@pytest.mark.parametrize("layout", ["legacy", "zarr", "ocdbt"])
@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "by number"])
def test_tables_that_differ_between_layers_come_in_and_go_back_bit_by_bit(
    tmp_path, layout, scanned
):
    params = make_t5(PER_LAYER)
    theirs = to_scalable(params, scanned)
    path = tmp_path / "checkpoint_12"
    if layout == "legacy":
        write_checkpoint(path, theirs, step=12)
    else:
        mesh = Mesh(np.array(jax.devices()), ("a",))
        state = train_state(theirs, NamedSharding(mesh, PartitionSpec()))
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=layout == "ocdbt")) as writer:
            writer.save(path, args=ocp.args.PyTreeSave(state))
    source = open_source(str(path))
    assert source.config == PER_LAYER
    assert_holds(source, params)
    write_t5x(source, str(tmp_path / "made"), scan_layers=scanned)
    found, step = read_as_t5x(tmp_path / "made")
    assert step == 12
    assert found.keys() == theirs.keys()
    for name, value in found.items():
        assert (value.shape, value.dtype) == (theirs[name].shape, theirs[name].dtype), name
        assert value.tobytes() == np.ascontiguousarray(theirs[name]).tobytes(), name
    again = open_source(str(tmp_path / "made"))
    assert again.config == PER_LAYER
    assert_holds(again, params)


def test_one_layer_that_differs_gives_each_layer_its_table(tmp_path):
    params = to_scalable(make_t5(GATED), scanned=True)
    tables = params["decoder/decoder/relpos_bias/rel_embedding"]
    tables[0, 1, 0] += 1
    write_checkpoint(tmp_path / "checkpoint_1", params)
    source = open_source(str(tmp_path))
    assert source.config == PER_LAYER
    found = source.tensors["decoder/layers/relpos_bias/rel_embedding"].whole()
    np.testing.assert_array_equal(found, tables.swapaxes(0, 1))


def test_tables_that_a_stated_config_shares_have_to_be_equal(tmp_path):
    path = tmp_path / "checkpoint_1"
    write_checkpoint(path, to_scalable(make_t5(PER_LAYER), scanned=True))
    (path / "t5x_ext.json").write_text(json.dumps({"model_config": config_to_json(GATED)}))
    with pytest.raises(ConfigError, match="decoder/decoder/relpos.*its model_config has position_"):
        open_source(str(path))


def test_paths_point_where_the_checkpoint_is_now():
    local = tensorstores.kvstore(epath.Path("/data/checkpoint_1"), "target.a")
    assert local == {"driver": "file", "path": "/data/checkpoint_1/target.a/"}
    bucket = tensorstores.kvstore(epath.Path("gs://bucket/x/checkpoint_1"), "target.a")
    assert bucket == {"driver": "gcs", "bucket": "bucket", "path": "x/checkpoint_1/target.a/"}
    database = tensorstores.kvstore(epath.Path("gs://bucket/x/state"), "params.a", ocdbt=True)
    base = {"driver": "gcs", "bucket": "bucket", "path": "x/state/"}
    assert database == {"driver": "ocdbt", "base": base, "path": "params.a/"}


LARGE = T5Config(
    vocab_size=192,
    emb_dim=128,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=1,
    head_dim=64,
    mlp_dim=256,
    mlp_activations=("gelu", "linear"),
)

# What Adafactor.init_param_state of T5X makes of these parameters, after its own rules: matrices by
# size, others (a stack of layers on axis 1, heads apart from head_dim) by the names of their axes.
MOMENTS = {
    "t5": {
        "token_embedder/embedding": {"v_row": (128,), "v_col": (192,)},
        "decoder/logits_dense/kernel": {"v_row": (128,), "v_col": (192,)},
        "encoder/layers_1/attention/query/kernel": {"v_row": (128,), "v_col": (128,)},
        "encoder/layers_0/mlp/wo/kernel": {"v_row": (128,), "v_col": (256,)},
        "decoder/layers_0/pre_mlp_layer_norm/scale": {"v": (128,)},
        "encoder/relpos_bias/rel_embedding": {"v": (2, 32)},
    },
    "scalable_t5 scanned": {
        "token_embedder/embedding": {"v_row": (128,), "v_col": (192,)},
        "encoder/encoder/attention/query/kernel": {"v_row": (128, 2), "v_col": (2, 2, 64)},
        "encoder/encoder/attention/out/kernel": {"v_row": (2, 128), "v_col": (2, 2, 64)},
        "encoder/encoder/mlp/wi_0/kernel": {"v_row": (128, 2), "v_col": (2, 256)},
        "encoder/encoder/mlp/wo/kernel": {"v_row": (2, 128), "v_col": (256, 2)},
        "encoder/encoder/pre_mlp_layer_norm/scale": {"v": (128, 2)},
        "encoder/encoder/relpos_bias/rel_embedding": {"v": (2, 2, 32)},
    },
    "scalable_t5": {
        "encoder/layers_1/attention/query/kernel": {"v_row": (128,), "v_col": (2, 64)},
        "encoder/layers_1/attention/out/kernel": {"v_row": (128,), "v_col": (2, 64)},
        "encoder/layers_0/mlp/wo/kernel": {"v_row": (128,), "v_col": (256,)},
        "decoder/layers_0/relpos_bias/rel_embedding": {"v": (2, 32)},
    },
}


@pytest.mark.parametrize("form", MOMENTS)
def test_the_optimizers_entries_are_those_that_training_restores(tmp_path, form):
    """T5X refuses a checkpoint whose keys are not those of its own state."""
    config = LARGE.replace(position_table_per_layer=form == "scalable_t5")
    write_t5x(random_source(config), str(tmp_path / "made"), scan_layers="scanned" in form)
    tree = flax_msgpack.decode((tmp_path / "made" / "checkpoint").read_bytes())["optimizer"]
    assert set(tree["state"]) == {"step", "param_states"}
    target = dict(flax_msgpack.named_leaves(tree["target"]))
    moments = dict(flax_msgpack.named_leaves(tree["state"]["param_states"]))
    kinds = ("m", "v", "v_col", "v_row")
    assert set(moments) == {f"{name}/{kind}" for name in target for kind in kinds}
    assert all(values.dtype == np.float32 and not values.any() for values in moments.values())
    for name, shapes in MOMENTS[form].items():
        found = {kind: moments[f"{name}/{kind}"].shape for kind in kinds}
        assert found == dict.fromkeys(kinds, (1,)) | shapes, name
    assert open_source(str(tmp_path / "made")).config == config
