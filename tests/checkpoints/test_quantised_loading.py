"""Kernels are quantised while they are read: as a loaded model would be, a matrix at a time."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hf_checkpoints import T5_1_1, make_checkpoint, random_source, read_arrays, write_arrays

from t5x_ext.checkpoints import load_params, trees
from t5x_ext.errors import ConfigError
from t5x_ext.models import network, nf4, parameters
from t5x_ext.models.quantizing import quantize
from t5x_ext.partitioning import PjitPartitioner

CONFIG = T5_1_1.replace(emb_dim=128, mlp_dim=192)
SPECS = network.Transformer(CONFIG).specs


def wanted(partitioner: PjitPartitioner | None = None) -> parameters.Params:
    return nf4.quantise_abstract(SPECS, parameters.abstract_params(SPECS), partitioner)


def test_what_is_loaded_is_what_quantising_the_loaded_model_gives(tmp_path) -> None:
    path = str(make_checkpoint(tmp_path / "base", CONFIG))
    found, whole = trees.named_leaves(load_params(path, wanted())), load_params(path)
    for name, array in trees.named_leaves(whole).items():
        in_layer = "/layers/" in name and name.endswith("/kernel")
        assert isinstance(found[name], nf4.NF4) == in_layer, name
        expected = quantize(array) if in_layer else array
        for x, y in zip(jax.tree.leaves(found[name]), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)


def test_a_mesh_holds_the_same_codes_in_parts(tmp_path) -> None:
    path = str(make_checkpoint(tmp_path / "base", CONFIG.replace(vocab_size=64, num_heads=4)))
    specs = network.Transformer(CONFIG.replace(vocab_size=64, num_heads=4)).specs
    partitioner = PjitPartitioner(fsdp=4, model=2)
    abstract = parameters.abstract_params(specs)
    layout = nf4.quantise_abstract(specs, abstract, partitioner)
    split = load_params(path, layout)
    alone = load_params(path, nf4.quantise_abstract(specs, abstract))
    jax.tree.map(np.testing.assert_array_equal, split, alone)
    codes = split["encoder"]["layers"]["mlp"]["wo"]["kernel"].codes
    assert codes.sharding.shard_shape(codes.shape) == (2, 128 // 4, 192 // 2 // 2)


def test_no_more_than_one_matrix_is_read_at_a_time() -> None:
    reads: list[int] = []

    def watch(tensor):
        def read(index):
            values = tensor.read(index)
            reads.append(values.size)
            return values

        return dataclasses.replace(tensor, read=read)

    name = "encoder/layers/mlp/wi_0/kernel"
    tensors = {name: watch(random_source(CONFIG).tensors[name])}
    kernel = wanted()["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    asked = trees.wanted_params({"encoder": {"layers": {"mlp": {"wi_0": {"kernel": kernel}}}}})
    trees.read_onto_devices(tensors, asked)
    assert reads == [128 * 192] * 2


def test_a_number_that_is_not_finite_is_refused_by_name(tmp_path) -> None:
    path = make_checkpoint(tmp_path / "base", CONFIG)
    arrays = read_arrays(path)
    arrays["encoder.block.1.layer.0.SelfAttention.q.weight"][2, 3] = np.nan
    write_arrays(path, arrays)
    with pytest.raises(
        ConfigError, match="query/kernel: holds an infinite value or NaN.* quantised"
    ):
        load_params(str(path), wanted())


def test_kernels_of_another_shape_are_refused_by_name(tmp_path) -> None:
    path = make_checkpoint(tmp_path / "base", CONFIG.replace(mlp_dim=256))
    with pytest.raises(ConfigError, match=r"mlp/wi_0/kernel \(saved \(2, 128, 256\)"):
        load_params(str(path), wanted())
