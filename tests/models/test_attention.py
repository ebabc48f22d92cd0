"""The TPU kernel, run step by step on the CPU, equals attention with its logits in memory."""

from __future__ import annotations

from collections.abc import Callable

import compilers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.models.blocks import attend as attention
from t5x_ext.models.blocks import by_distance_kernel, kernel_check
from t5x_ext.models.blocks.attend import Heads, Pattern, make_attend
from t5x_ext.models.blocks.positions import RelativeBias
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning.compiling import describe_devices
from t5x_ext.planning.devices import parse_topology

HEADS, HEAD_DIM, BUCKETS = 4, 64, 32
SHAPE = Heads(HEADS, HEAD_DIM)


def bias_of(table: jax.Array, bidirectional: bool = True) -> RelativeBias:
    bias = RelativeBias(*table.shape, 128, bidirectional)
    bias.rel_embedding.set_value(table)
    return bias


def packed_segments(rng: np.random.Generator, batch: int, length: int) -> jax.Array:
    """Three segments a row and some padding at the end."""
    rows = []
    for _ in range(batch):
        cuts = np.sort(rng.choice(np.arange(1, length), 3, replace=False))
        row = np.searchsorted(cuts, np.arange(length), side="right") + 1
        rows.append(np.where(row == 4, 0, row))
    return jnp.asarray(np.stack(rows), jnp.int32)


def operands(query_length: int, key_length: int, batch: int = 2, heads: int = HEADS):
    rng = np.random.default_rng(0)
    width = heads * HEAD_DIM
    query, key, value, grad = (
        jnp.asarray(rng.normal(size=(batch, length, width)) / 8, jnp.float32)
        for length in (query_length, key_length, key_length, query_length)
    )
    table = jnp.asarray(rng.normal(size=(heads, BUCKETS)), jnp.float32)
    segments = packed_segments(rng, batch, query_length), packed_segments(rng, batch, key_length)
    return query * 8, key * 8, value, grad, table, segments


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
        bias = pattern.bias.by_distance(distance)[None] if has_bias else None
        split = [
            attention.split_heads(x, n)
            for x, n in ((query, HEADS), (key, kv_heads), (value, kv_heads))
        ]
        out = attention.dot_product_attention(*split, bias, attention.segment_mask(pattern))
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


@pytest.mark.slow(but="lengths1-v6e:2x2")
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("lengths", [(1024, 1024), (128, 1024), (2048, 2048)])
def test_kernel_compiles_for_every_tpu(topology: str, lengths: tuple[int, int]) -> None:
    """Generations differ in memory and in what their vector units can do."""
    compilers.load_libtpu()
    devices = describe_devices(parse_topology(topology))
    partitioner = PjitPartitioner(model=2, devices=tuple(devices))
    is_self = lengths[0] == lengths[1]

    def loss(table, query, key, value, *segments):
        bias = bias_of(table, bidirectional=False) if is_self else None
        attend = make_attend(Pattern(*segments, causal=is_self, bias=bias), Heads(8, HEAD_DIM))
        return jnp.sum(attend(query, key, value, None).astype(jnp.float32))

    def shape(*sizes: int, dtype=jnp.bfloat16, axes=("batch", None, "joined_kv")):
        sharding = partitioner.sharding(axes[: len(sizes)])
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

    query, key = (shape(4, length, 8 * HEAD_DIM) for length in lengths)
    segments = [shape(4, length, dtype=jnp.int32) for length in lengths]
    table = shape(8, BUCKETS, dtype=jnp.float32, axes=("heads", None))
    with partitioner.activate():
        grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
        text = grad.lower(table, query, key, key, *segments).compile().as_text()
    assert text.count("tpu_custom_call") >= 1  # forward is not needed for the gradient of a sum


def test_kernel_is_taken_only_where_it_fits() -> None:
    assert by_distance_kernel.suits(1024, 1024, 32, 64)
    assert by_distance_kernel.suits(128, 1024, 32, 64)
    assert not by_distance_kernel.suits(100, 128, 32, 64)
    assert not by_distance_kernel.suits(128, 128, 3, 64)  # half a group of lanes would be left
    assert not by_distance_kernel.suits(128, 4096, 32, 64)  # one block of logits exceeds the memory
    segments = jnp.ones((1, 128), jnp.int32)
    pattern = Pattern(segments, segments)
    assert not attention._takes_kernel(pattern, Heads(2, 64), "auto")  # no TPU mesh is active


@pytest.mark.parametrize(
    ("lengths", "heads", "what"),
    [
        ((100, 128), Heads(4, 64), "100 x 128 positions"),
        ((128, 4096), Heads(4, 64), "up to 2,048 keys"),
        ((128, 128), Heads(3, 64), "3 heads of 64"),
        ((128, 128), Heads(4, 64, num_kv_heads=2), "4 heads that share 2 key heads"),
    ],
)
def test_a_kernel_that_cannot_be_had_is_an_error(lengths, heads, what) -> None:
    segments = (jnp.ones((1, length), jnp.int32) for length in lengths)
    with pytest.raises(ConfigError, match=what) as caught:
        make_attend(Pattern(*segments), heads, path="flash")
    assert "allowed: 'auto'" in str(caught.value)


@pytest.mark.slow
def test_the_kernel_is_compared_with_a_reference_before_it_is_taken(monkeypatch, capsys) -> None:
    assert kernel_check.largest_difference() < kernel_check.TOLERANCE

    def wrong(layout, query, key, value, by_distance, *segments):
        out = by_distance_kernel.flash_attention(layout, query, key, value, by_distance, *segments)
        return out + 0.1 * value

    monkeypatch.setattr(kernel_check, "flash_attention", wrong)
    kernel_check.kernel_agrees.cache_clear()
    # Asked while a step is traced, as `auto` does.
    found = []
    jax.jit(lambda x: found.append(kernel_check.kernel_agrees()) or x)(1.0)
    assert found == [False]
    assert "plain XLA is used instead" in capsys.readouterr().err
    kernel_check.kernel_agrees.cache_clear()


def test_dropping_keys_equals_dropping_attention_weights() -> None:
    query, key, value, _, _, segments = operands(8, 8)
    split = [x.reshape(2, 8, HEADS, HEAD_DIM) for x in (query, key, value)]
    dropout_key = jax.random.key(3)
    dropped = attention.drop_keys(value, HEADS, 0.5, dropout_key)
    keep = np.asarray(attention.drop_keys(jnp.ones_like(value), HEADS, 0.5, dropout_key))
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

    ours = jax.grad(loss(attention.add_bias), argnums=(0, 1))(logits, bias)
    plain = jax.grad(loss(jnp.add), argnums=(0, 1))(logits, bias)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
