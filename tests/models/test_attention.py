"""Attention's TPU kernels, run step by step on the CPU, equal attention in XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable

import compilers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_operands import BUCKETS, HEAD_DIM, HEADS, SHAPE, bias_of, operands, packed_segments

from t5x_ext.models.blocks import (
    by_distance,
    cudnn,
    splash,
    xla_attention,
)
from t5x_ext.models.blocks.attend import drop_keys, make_attend
from t5x_ext.models.blocks.pattern import Heads, Pattern, segment_mask, split_heads
from t5x_ext.models.blocks.positions import ALiBi
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning.compiling import describe_devices
from t5x_ext.planning.devices import parse_topology

CASES = {
    "encoder": (256, 256, dict(causal=False), True),
    "decoder": (384, 384, dict(causal=True), True),
    "cross": (128, 256, dict(causal=False), False),
}


@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_reference_with_all_gradients(case: str) -> None:
    query_length, key_length, settings, has_bias = CASES[case]
    query, key, value, grad, table, segments = operands(query_length, key_length)
    if query_length == key_length:
        segments = segments[0], segments[0]
    # What a position of padding gets is nobody's business, and differs.
    real = (segments[0] > 0)[..., None]
    grad = grad * real

    def run(path: str, table, *qkv):
        bias = bias_of(table, bidirectional=not settings["causal"]) if has_bias else None
        pattern = Pattern(*segments, bias=bias, **settings)
        attend = make_attend(pattern, SHAPE, path=path)
        out = attend(*qkv, None)
        return jnp.sum(out * grad), out * real

    results = {}
    for path in ("xla", "flash"):
        run_path = jax.value_and_grad(
            lambda *args, path=path: run(path, *args), argnums=(0, 1, 2, 3), has_aux=True
        )
        (_, out), grads = jax.jit(run_path)(table, query, key, value)
        results[path] = (out, *grads)
    names = ("output", "table", "query", "key", "value")
    for name, ours, expected in zip(names, results["flash"], results["xla"], strict=True):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(ours, expected, atol=3e-6 * max(scale, 1), err_msg=name)


@pytest.mark.parametrize(
    ("length", "has_bias", "kv_heads"), [(130, True, 4), (384, True, 2), (1100, False, 2)]
)
def test_a_causal_row_by_blocks_equals_the_whole(
    length: int, has_bias: bool, kv_heads: int
) -> None:
    query, key, value, grad, table, (segments, _) = operands(length, length)
    heads = Heads(HEADS, HEAD_DIM, kv_heads)
    key, value = (x[..., : kv_heads * HEAD_DIM] for x in (key, value))
    grad = grad * (segments > 0)[..., None]

    def pattern_of(table: jax.Array) -> Pattern:
        bias = bias_of(table, bidirectional=False) if has_bias else None
        return Pattern(segments, segments, causal=True, bias=bias)

    def by_blocks(table, *qkv):
        return jnp.sum(make_attend(pattern_of(table), heads, path="xla")(*qkv, None) * grad)

    def whole(table, query, key, value):
        pattern = pattern_of(table)
        distance = np.arange(length)[None, :] - np.arange(length)[:, None]
        bias = pattern.bias.static_bias(distance)[None] if has_bias else None
        split = [split_heads(x, n) for x, n in ((query, HEADS), (key, kv_heads), (value, kv_heads))]
        out = xla_attention.dot_product_attention(*split, bias, segment_mask(pattern))
        return jnp.sum(out.reshape(query.shape) * grad)

    ours, expected = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3)))(table, query, key, value)
        for f in (by_blocks, whole)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_kernel_on_a_mesh_equals_one_device() -> None:
    query, key, value, grad, table, segments = operands(128, 128, batch=4)
    partitioner = PjitPartitioner(fsdp=2, model=2)

    def loss(mesh: bool, table, *qkv):
        pattern = Pattern(segments[0], segments[0], bias=bias_of(table))
        attend = make_attend(pattern, SHAPE, path="flash")
        return jnp.sum(attend(*qkv, None) * grad)

    expected = jax.grad(lambda *a: loss(False, *a), argnums=(0, 1, 2, 3))(table, query, key, value)
    with partitioner.activate():
        sharded = jax.jit(jax.grad(lambda *a: loss(True, *a), argnums=(0, 1, 2, 3)))
        text = sharded.lower(table, query, key, value).compile().as_text()
        ours = sharded(table, query, key, value)
    assert "all-reduce" in text  # the table's gradient is summed over the devices' rows
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def splash_operands(length: int, heads: Heads, batch: int = 2):
    query, key, value, grad, _, (segments, _) = operands(length, length, batch, heads.num_heads)
    key, value = (x[..., : heads.kv * HEAD_DIM] for x in (key, value))
    # What a position of padding gets is nobody's business, and differs.
    return (query, key, value), grad * (segments > 0)[..., None], segments


@pytest.mark.parametrize(("length", "kv_heads"), [(384, 2), (256, 1)])
def test_splash_equals_reference_with_all_gradients(length: int, kv_heads: int) -> None:
    heads = Heads(HEADS, HEAD_DIM, kv_heads, 0.125)
    rows, grad, segments = splash_operands(length, heads)

    def run(path, *rows):
        out = path.build(Pattern(segments, segments, causal=True), heads)(*rows)
        return jnp.sum(out * grad), out * (grad != 0)

    ours, expected = (
        jax.jit(jax.grad(run, argnums=(1, 2, 3), has_aux=True), static_argnums=0)(path, *rows)
        for path in (splash, xla_attention)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        scale = max(float(jnp.abs(other).max()), 1)
        np.testing.assert_allclose(one, other, atol=3e-6 * scale)


@pytest.mark.parametrize(("path", "kv_heads"), [(splash, 2), (cudnn, 2), (cudnn, 1)])
def test_kernels_of_several_models_on_a_mesh_equal_xla(monkeypatch, path, kv_heads: int) -> None:
    """What is asked of cuDNN, `jax.nn.dot_product_attention` computes in XLA here."""
    monkeypatch.setattr(cudnn, "IMPLEMENTATION", "xla")
    heads = Heads(HEADS, HEAD_DIM, kv_heads, 0.125)
    rows, grad, segments = splash_operands(128, heads, batch=4)

    def loss(path, *rows):
        out = path.build(Pattern(segments, segments, causal=True), heads)(*rows)
        return jnp.sum(out * grad), out * (grad != 0)

    def run(path, *rows):
        gradients = jax.grad(functools.partial(loss, path), argnums=(0, 1, 2), has_aux=True)
        return jax.jit(jax.vmap(gradients, spmd_axis_name="expert"))(*rows)

    rows = [jnp.stack([x, 2 * x]) for x in rows]
    expected = run(xla_attention, *rows)
    with PjitPartitioner(expert=2, data=1, fsdp=2, model=2).activate():
        ours = run(path, *rows)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow(but="lengths1-64-v6e:2x2")
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize(
    ("lengths", "head_dim"),
    [((1024, 1024), 64), ((128, 1024), 64), ((2048, 2048), 64), ((2048, 2048), 112)],
)
def test_kernel_compiles_for_every_tpu(
    topology: str, lengths: tuple[int, int], head_dim: int
) -> None:
    """Generations differ in memory and in what their vector units can do."""
    compilers.load_libtpu()
    devices = describe_devices(parse_topology(topology))
    partitioner = PjitPartitioner(model=2, devices=tuple(devices))
    is_self = lengths[0] == lengths[1]

    def loss(table, query, key, value, *segments):
        bias = bias_of(table, bidirectional=False) if is_self else None
        attend = make_attend(Pattern(*segments, causal=is_self, bias=bias), Heads(8, head_dim))
        return jnp.sum(attend(query, key, value, None).astype(jnp.float32))

    def shape(*sizes: int, dtype=jnp.bfloat16, axes=("batch", None, "joined_kv")):
        sharding = partitioner.sharding(axes[: len(sizes)])
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

    query, key = (shape(4, length, 8 * head_dim) for length in lengths)
    segments = [shape(4, length, dtype=jnp.int32) for length in lengths]
    table = shape(8, BUCKETS, dtype=jnp.float32, axes=("heads", None))
    with partitioner.activate():
        grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
        text = grad.lower(table, query, key, key, *segments).compile().as_text()
    assert text.count("tpu_custom_call") >= 1  # forward is not needed for the gradient of a sum


@pytest.mark.slow(but="True-v5e:2x2-heads0")
@pytest.mark.parametrize("heads", [Heads(8, 128, 2, 0.1), Heads(12, 64, 4, 0.1), Heads(8, 64, 1)])
@pytest.mark.parametrize("topology", ["v5e:2x2", "v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("saves_heads", [True, False])
def test_splash_compiles_for_every_tpu(topology: str, heads: Heads, saves_heads: bool) -> None:
    """And a remat policy that keeps what is named "heads" keeps all that the forward pass found."""
    compilers.load_libtpu()
    devices = describe_devices(parse_topology(topology))
    partitioner = PjitPartitioner(model=2, devices=tuple(devices))
    names = ("heads",) if saves_heads else ()
    policy = jax.checkpoint_policies.save_only_these_names(*names)

    def loss(query, key, value, segments):
        kernel = make_attend(Pattern(segments, segments, causal=True), heads, dtype=query.dtype)
        layer = jax.checkpoint(functools.partial(kernel, dropout_key=None), policy=policy)
        return jnp.sum(jnp.sin(layer(query, key, value).astype(jnp.float32)))

    def shape(width: int, axis: str) -> jax.ShapeDtypeStruct:
        sharding = partitioner.sharding(("batch", None, axis))
        return jax.ShapeDtypeStruct((4, 4096, width), jnp.bfloat16, sharding=sharding)

    query = shape(heads.num_heads * heads.head_dim, "joined_kv")
    key = shape(heads.kv * heads.head_dim, "joined_kv" if heads.kv > 1 else "kv")
    rows = partitioner.sharding(("batch", None))
    segments = jax.ShapeDtypeStruct((4, 4096), jnp.int32, sharding=rows)
    with partitioner.activate():
        grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        text = grad.lower(query, key, key, segments).compile().as_text()
    # Forward, once or twice, and backward to queries and to keys.
    assert text.count('"tpu_custom_call"') == (3 if saves_heads else 4)
    assert "4096,4096]" not in text  # no logits


@pytest.mark.parametrize(
    "heads", [Heads(4, 112, scale=112**-0.5), Heads(3, 64, scale=0.125)], ids=str
)
def test_heads_that_leave_lanes_free_are_padded(heads: Heads) -> None:
    rng = np.random.default_rng(2)
    width = heads.num_heads * heads.head_dim
    *rows, grad = jnp.asarray(rng.normal(size=(4, 2, 128, width)), jnp.float32)
    segments = packed_segments(rng, 2, 128)
    real = (segments > 0)[..., None]
    pattern = Pattern(segments, segments, causal=True, bias=ALiBi(heads.num_heads))
    assert by_distance.obstacle(pattern, heads, jnp.float32) is None

    def run(path, *rows):
        def loss(*rows):
            out = path.build(pattern, heads)(*rows)
            return jnp.sum(out * grad * real), out * real

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*rows)

    ours, expected = run(by_distance, *rows), run(xla_attention, *rows)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_alibi_of_a_prefix_lowers_keys_on_both_sides() -> None:
    """MPT's code with `prefix_lm`: -slope times the distance, in whichever direction."""
    alibi, distance = ALiBi(6), np.arange(5)[None, :] - np.arange(5)[:, None]
    bias = alibi.static_bias(distance)
    np.testing.assert_array_equal(bias, -alibi.slopes[:, None, None] * np.abs(distance))
    back = jnp.asarray(np.minimum(distance, 0))
    np.testing.assert_array_equal(alibi.traced_bias(back, 4), alibi.static_bias(np.asarray(back)))


def test_dropping_keys_equals_dropping_attention_weights() -> None:
    query, key, value, _, _, segments = operands(8, 8)
    split = [x.reshape(2, 8, HEADS, HEAD_DIM) for x in (query, key, value)]
    dropout_key = jax.random.key(3)
    dropped = drop_keys(value, HEADS, 0.5, dropout_key)
    keep = np.asarray(drop_keys(jnp.ones_like(value), HEADS, 0.5, dropout_key))
    keep = keep.reshape(2, 8, HEADS, HEAD_DIM)
    assert set(np.unique(keep)) == {0.0, 2.0} and (keep == keep[..., :1]).all()
    logits = jnp.einsum("bqhc,bkhc->bhqk", *split[:2])
    weights = jax.nn.softmax(logits, axis=-1) * keep[..., 0].transpose(0, 2, 1)[:, :, None, :]
    expected = jnp.einsum("bhqk,bkhc->bqhc", weights, split[2]).reshape(query.shape)
    whole = Pattern(jnp.ones((2, 8), jnp.int32), jnp.ones((2, 8), jnp.int32))
    ours = make_attend(whole, SHAPE)(query, key, dropped, None)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_gradient_of_the_bias_is_its_sum_over_rows() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    logits = jax.random.normal(keys[0], (5, 2, 7, 9))
    bias = jax.random.normal(keys[1], (1, 2, 7, 9))
    weights = jax.random.normal(keys[2], logits.shape)

    def loss(add: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., jax.Array]:
        return lambda logits, bias: jnp.sum(weights * jnp.tanh(add(logits, bias)))

    ours = jax.grad(loss(xla_attention.add_bias), argnums=(0, 1))(logits, bias)
    plain = jax.grad(loss(jnp.add), argnums=(0, 1))(logits, bias)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
