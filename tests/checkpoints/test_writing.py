"""Checkpoints written tensor by tensor are those that save_params writes."""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_ext.checkpoints import (
    fingerprint,
    load_meta,
    load_params,
    open_source,
    save_params,
    tensorstores,
)
from t5x_ext.checkpoints.own_layout import write_params
from t5x_ext.errors import ConfigError
from t5x_ext.models.families import config_to_json
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.models.parameters import init_params

CONFIG = T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=4,
    mlp_dim=16,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model saved by Orbax from eight devices, with its parameters."""
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    params = init_params(Transformer(CONFIG).specs, jax.random.key(0))
    spread = NamedSharding(mesh, PartitionSpec("fsdp"))
    params["token_embedder"]["embedding"] = jax.device_put(
        params["token_embedder"]["embedding"], spread
    )
    path = tmp_path_factory.mktemp("saved") / "params"
    save_params(str(path), params, {"step": 30, "model_config": config_to_json(CONFIG)})
    return path, params


def assert_same(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_copy_is_the_same_checkpoint(saved, tmp_path):
    path, params = saved
    source = open_source(str(path))
    copy = tmp_path / "copy"
    write_params(source, str(copy))
    assert fingerprint(str(copy)) == fingerprint(str(path))
    assert_same(load_params(str(copy), params), params)
    assert open_source(str(copy)).config == CONFIG
    origin = {"path": str(path), "kind": "t5x_ext", "sha256": source.digest}
    assert load_meta(str(copy)) == load_meta(str(path)) | {"source": origin}
    # Where it was converted twice, the first origin stays known.
    write_params(open_source(str(copy)), str(tmp_path / "again"))
    assert load_meta(str(tmp_path / "again"))["source"]["source"] == origin


def test_orbax_itself_reads_a_copy(saved, tmp_path):
    path, params = saved
    write_params(open_source(str(path)), str(tmp_path / "copy"))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        target = {"params": jax.tree.map(ocp.utils.to_shape_dtype_struct, params)}
        args = ocp.args.PyTreeRestore(
            target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)
        )
        restored = reader.restore(tmp_path / "copy" / "state", args=args)["params"]
    embedding = params["token_embedder"]["embedding"]
    assert restored["token_embedder"]["embedding"].sharding == embedding.sharding
    assert_same(restored, params)


def test_a_cast_copy_is_what_save_params_writes_of_cast_values(saved, tmp_path):
    path, params = saved
    write_params(open_source(str(path)), str(tmp_path / "narrow"), "bfloat16")
    cast = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params)
    save_params(str(tmp_path / "cast"), cast, {})
    assert fingerprint(str(tmp_path / "narrow")) == fingerprint(str(tmp_path / "cast"))
    assert_same(load_params(str(tmp_path / "narrow"), cast), cast)


def test_a_tokenizer_travels_along(saved, tmp_path):
    path, _ = saved
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(b"pieces")
    source = dataclasses.replace(open_source(str(path)), tokenizer_dir=str(tmp_path / "tokenizer"))
    write_params(source, str(tmp_path / "copy"))
    found = open_source(str(tmp_path / "copy")).tokenizer_dir
    assert found == str(tmp_path / "copy" / "tokenizer")
    assert (tmp_path / "copy" / "tokenizer" / "spiece.model").read_bytes() == b"pieces"


def test_damage_and_lies_are_refused_when_opened(saved, tmp_path):
    path, _ = saved
    copy = tmp_path / "copy"
    write_params(open_source(str(path)), str(copy))
    largest = max((copy / "state" / "d").iterdir(), key=lambda file: file.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[:-1])
    with pytest.raises(ConfigError, match=f"state/d/{largest.name}: .* bytes, saved with"):
        open_source(str(copy))
    largest.write_bytes(content)
    liar = dataclasses.replace(
        open_source(str(path)), config=dataclasses.replace(CONFIG, mlp_dim=9)
    )
    write_params(liar, str(tmp_path / "liar"))
    with pytest.raises(ConfigError, match=r"mlp/wi/kernel \(saved \(2, 8, 16\), wanted \(2, 8, 9"):
        open_source(str(tmp_path / "liar"))


def test_zeros_are_written_and_missing_chunks_are_not_zeros(tmp_path):
    zeros = {"a": np.zeros((4, 4), np.float32)}
    save_params(str(tmp_path / "zeros"), zeros, {})
    write_params(open_source(str(tmp_path / "zeros")), str(tmp_path / "copy"))
    assert_same(load_params(str(tmp_path / "copy")), zeros)
    write = tensorstores.create_array(
        epath.Path(tmp_path),
        "half",
        (4, 4),
        np.dtype("float32"),
        (2, 4),
        gzip=True,
    )
    write((slice(0, 2),), np.ones((2, 4), np.float32))
    half = tensorstores.open_arrays(epath.Path(tmp_path), {"half": "half"})["half"]
    assert half.read((slice(0, 2), slice(None))).sum() == 8
    with pytest.raises(ValueError, match="half"):
        half.whole()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 9), max_size=4), st.integers(1, tensorstores.CHUNK_BYTES))
def test_slabs_cover_a_tensor_in_order_and_hold_whole_chunks(shape, itemsize):
    chunk = tensorstores.chunk_shape(tuple(shape), itemsize)
    assert math.prod(chunk) * itemsize <= tensorstores.CHUNK_BYTES
    slabs = list(tensorstores.slabs(tuple(shape), itemsize))
    numbers = np.arange(math.prod(shape)).reshape(shape)
    in_order = np.concatenate([numbers[slab].ravel() for slab in slabs])
    np.testing.assert_array_equal(in_order, numbers.ravel())
    for slab in slabs:
        assert numbers[slab].size * itemsize <= tensorstores.SLAB_BYTES
        assert all(part.start % size == 0 for part, size in zip(slab, chunk, strict=True))
