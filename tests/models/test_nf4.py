"""NF4: bitsandbytes' bytes and values, and products that never keep a dequantised kernel."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.models import network, nf4, parameters
from t5x_ext.models.falcon import FalconConfig
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.mpt import MptConfig
from t5x_ext.models.parameters import ParamSpec
from t5x_ext.models.quantizing import quantize
from t5x_ext.partitioning import PjitPartitioner

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "specialization" / "goldens"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    path = GOLDENS / "nf4.npz"
    if not path.is_file():
        pytest.skip(f"arrays of bitsandbytes not found at {path}")
    return dict(np.load(path))


def random_kernel(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_tables_are_those_of_bitsandbytes(golden) -> None:
    np.testing.assert_array_equal(nf4.CODES, golden["nf4_code"])
    np.testing.assert_array_equal(nf4.absmax_table(), golden["absmax_code_table"])


@pytest.mark.parametrize("name", "abcdef")
def test_bytes_and_values_are_those_of_bitsandbytes(golden, name) -> None:
    weight = np.atleast_2d(golden[f"{name}_input"])  # [out, in]
    found = quantize(weight.T)
    for ours, theirs in (
        (found.codes, "packed"),
        (found.absmax_codes, "absmax_codes"),
        (found.absmax_scales, "absmax_absmax"),
        (found.absmax_offset, "absmax_offset"),
        # Compiled, where a product and a sum might be rounded as one.
        (jax.jit(nf4.dequantize)(found).T, "dequantised"),
    ):
        np.testing.assert_array_equal(np.ravel(ours), np.ravel(golden[f"{name}_dq_{theirs}"]))


def test_codes_are_looked_up_alike_by_gathering_and_by_choosing() -> None:
    """CPUs and GPUs do the one, TPUs the other."""
    index = jnp.arange(16, dtype=jnp.uint8)
    np.testing.assert_array_equal(nf4._gather(index), nf4.CODES)
    np.testing.assert_array_equal(jax.jit(nf4._choose)(index), nf4.CODES)


@pytest.mark.parametrize("shape", [(64, 3), (128, 5), (100, 7), (33, 3)])
def test_a_number_is_off_by_no_more_than_half_the_widest_gap_between_codes(shape) -> None:
    kernel = random_kernel(*shape)
    found = np.asarray(nf4.dequantize(quantize(kernel)))
    gap = np.diff(nf4.CODES).max() / 2
    # A magnitude in eight bits is off by less than 1%.
    assert np.abs(found - kernel).max() <= (gap + 0.01) * np.abs(kernel).max()


def test_each_layer_of_a_stack_is_quantised_alone() -> None:
    kernels = random_kernel(3, 128, 6)
    stack = quantize(kernels)
    assert stack.shape == (3, 128, 6)
    for layer, kernel in enumerate(kernels):
        alone = quantize(kernel)
        for x, y in zip(jax.tree.leaves(stack), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(x[layer], y)


def test_an_infinite_number_is_refused() -> None:
    kernel = random_kernel(64, 2)
    kernel[3, 1] = np.inf
    with pytest.raises(ValueError, match="infinite value or NaN"):
        quantize(kernel)


@pytest.mark.parametrize("shape", [(128, 6), (100, 6)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_and_its_gradient_are_those_of_the_dequantised_kernel(shape, dtype) -> None:
    codes = quantize(random_kernel(*shape))
    kernel = nf4.dequantize(codes, dtype)
    x = jnp.asarray(random_kernel(2, 3, shape[0], seed=1), dtype)
    wanted, wanted_back = jax.vjp(lambda x: x @ kernel, x)
    found, found_back = jax.vjp(lambda x: nf4.product(x, codes), x)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(*map(jnp.float32, (found, wanted)), rtol=tolerance, atol=tolerance)
    back = [jnp.float32(pull(jnp.ones_like(wanted))[0]) for pull in (found_back, wanted_back)]
    np.testing.assert_allclose(*back, rtol=tolerance, atol=tolerance)
    assert found.dtype == dtype


def test_models_side_by_side_share_one_quantised_kernel() -> None:
    codes = quantize(random_kernel(64, 6))
    x = jnp.asarray(random_kernel(3, 5, 64, seed=1))
    together = jax.vmap(nf4.product, in_axes=(0, None))(x, codes)
    np.testing.assert_allclose(together, x @ nf4.dequantize(codes), rtol=1e-5, atol=1e-5)


def test_a_scan_slices_layers_and_keeps_neither_kernel_nor_gradient_of_one() -> None:
    """Between the passes there are codes; no array in floating point is as large as a kernel."""
    width, layers, rows = 128, 4, 2
    stack = quantize(random_kernel(layers, width, width) / width)

    def loss(x: jax.Array, stack: nf4.NF4) -> jax.Array:
        x, _ = jax.lax.scan(lambda x, layer: (jnp.tanh(nf4.product(x, layer)), None), x, stack)
        return jnp.sum(x)

    x = jnp.asarray(random_kernel(rows, width, seed=1))
    jaxpr = jax.make_jaxpr(jax.grad(loss))(x, stack).jaxpr
    kept = [variable.aval for equation in jaxpr.eqns for variable in equation.outvars]
    largest = max(math.prod(v.shape) for v in kept if jnp.issubdtype(v.dtype, jnp.floating))
    assert largest < width * width
    products = [e for e in _equations(jaxpr) if e.primitive.name == "dot_general"]
    assert {e.outvars[0].aval.shape for e in products} == {(rows, width)}
    expected = jnp.asarray(x)
    for layer in range(layers):
        one = jax.tree.map(lambda leaf: leaf[layer], stack)  # noqa: B023
        expected = jnp.tanh(expected @ nf4.dequantize(one))
    np.testing.assert_allclose(loss(x, stack), jnp.sum(expected), rtol=1e-5)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _spec(*shape: int, axes=("layers", "embed", "mlp")) -> ParamSpec:
    return ParamSpec(shape, axes, parameters.zeros, is_kernel=True)


@pytest.mark.parametrize("shape", [(2, 128, 6), (2, 100, 6), (2, 33, 3)])
def test_shapes_are_known_before_values(shape) -> None:
    found, wanted = quantize(random_kernel(*shape)), nf4.abstract(_spec(*shape))
    described = [(x.shape, x.dtype) for x in jax.tree.leaves(found)]
    assert described == [(x.shape, x.dtype) for x in jax.tree.leaves(wanted)]
    assert wanted.shape == shape


def test_a_mesh_cuts_codes_with_their_magnitudes_or_leaves_these_whole() -> None:
    partitioner = PjitPartitioner(fsdp=4, model=2)
    split = nf4.abstract(_spec(2, 256, 6), partitioner)
    assert split.codes.sharding.shard_shape(split.codes.shape) == (2, 3, 32)
    assert split.absmax_codes.sharding.shard_shape(split.absmax_codes.shape) == (2, 3, 1)
    whole = nf4.abstract(_spec(2, 192, 6), partitioner)  # three blocks, four parts
    assert whole.codes.sharding.shard_shape(whole.codes.shape) == (2, 3, 24)
    assert whole.absmax_codes.sharding.shard_shape(whole.absmax_codes.shape) == (2, 3, 3)


def test_a_product_on_a_mesh_gathers_codes_and_is_that_of_one_device() -> None:
    partitioner = PjitPartitioner(fsdp=4, model=2)
    for width in (256, 192):
        codes = quantize(random_kernel(width, 6))
        layout = nf4.abstract(_spec(width, 6, axes=("embed", "mlp")), partitioner)
        placed = jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), codes, layout)
        x = jnp.asarray(random_kernel(8, width, seed=1))

        def on_mesh(x: jax.Array, codes: nf4.NF4) -> jax.Array:
            with partitioner.activate():
                return nf4.product(x, codes.gather(("embed", "mlp")))

        program = jax.jit(on_mesh).lower(x, placed).compile()
        gathered = [line for line in program.as_text().splitlines() if " all-gather(" in line]
        assert gathered and all(" u8[" in line for line in gathered), gathered
        np.testing.assert_allclose(program(x, placed), nf4.product(x, codes), rtol=1e-5, atol=1e-5)


def _llama(**sizes) -> LlamaConfig:
    shape = dict(vocab_size=32000, num_heads=32, num_kv_heads=32, head_dim=128, num_layers=32)
    return LlamaConfig(**(shape | sizes))


FULL_SIZES = {
    "llama2_7b": _llama(emb_dim=4096, mlp_dim=11008),
    "mpt_7b": MptConfig(
        vocab_size=50432,
        emb_dim=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        mlp_dim=16384,
    ),
    "mpt_30b": MptConfig(
        vocab_size=50432,
        emb_dim=7168,
        num_layers=48,
        num_heads=64,
        num_kv_heads=64,
        head_dim=112,
        mlp_dim=28672,
    ),
    "falcon_7b": FalconConfig(
        vocab_size=65024,
        emb_dim=4544,
        num_layers=32,
        num_heads=71,
        num_kv_heads=1,
        head_dim=64,
        mlp_dim=18176,
    ),
    "falcon_40b": FalconConfig(
        vocab_size=65024,
        emb_dim=8192,
        num_layers=60,
        num_heads=128,
        num_kv_heads=8,
        head_dim=64,
        mlp_dim=32768,
        shared_norm=False,
    ),
}


@pytest.mark.parametrize("name", FULL_SIZES)
def test_parameters_adapters_and_bytes_of_full_sizes_are_those_counted_with_peft(name) -> None:
    """bitsandbytes keeps query, key and value of some families in one matrix, with one offset."""
    path = GOLDENS / "parameter_counts.json"
    if not path.is_file():
        pytest.skip(f"counts not found at {path}")
    wanted = json.loads(path.read_text())[name]
    net = network.Transformer(FULL_SIZES[name], lora=LoRA(rank=8))
    assert parameters.count_params(net.frozen) == wanted["parameters"]
    assert parameters.count_params(net.trainable) == wanted["lora_parameters_r8"]
    leaves = jax.tree.leaves(net.frozen, is_leaf=lambda x: isinstance(x, ParamSpec))
    quantised = [spec for spec in leaves if nf4.is_quantisable(spec)]
    weights = sum(math.prod(spec.shape) for spec in quantised)
    assert weights == wanted["linear_weights_without_head"]
    num_bytes = sum(nf4.num_bytes(nf4.abstract(spec)) for spec in quantised)
    assert num_bytes == pytest.approx(wanted["nf4_bytes_double_quant"], rel=1e-6)
    assert 8 * num_bytes / weights == pytest.approx(wanted["bits_per_linear_weight"], abs=5e-4)
