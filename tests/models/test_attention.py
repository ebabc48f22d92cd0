"""Attention's TPU kernels, run step by step on the CPU, equal attention in XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable

import compilers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.models.blocks import (
    attend,
    by_distance,
    by_distance_kernel,
    cudnn,
    kernel_check,
    splash,
    xla_attention,
)
from t5x_ext.models.blocks.attend import drop_keys, make_attend
from t5x_ext.models.blocks.pattern import Heads, Pattern, segment_mask, split_heads
from t5x_ext.models.blocks.positions import ALiBi, RelativeBias
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning.compiling import describe_devices
from t5x_ext.planning.devices import parse_topology

HEADS, HEAD_DIM, BUCKETS = 4, 64, 32
SHAPE = Heads(HEADS, HEAD_DIM)


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch) -> None:
    monkeypatch.setattr(attend, "_told", set())


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


def test_kernel_is_taken_only_where_it_fits() -> None:
    assert by_distance_kernel.suits(1024, 1024)
    assert by_distance_kernel.suits(128, 1024)
    assert not by_distance_kernel.suits(100, 128)
    assert not by_distance_kernel.suits(128, 4096)  # one block of logits exceeds the memory
    sizes = {(32, 64): 64, (64, 112): 128, (8, 24): 32, (3, 64): 128, (8, 16): 16, (8, 256): None}
    for heads, size in sizes.items():
        assert by_distance_kernel.padded_head_dim(*heads) == size


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
    bias = alibi.by_distance(distance)
    np.testing.assert_array_equal(bias, -alibi.slopes[:, None, None] * np.abs(distance))
    back = jnp.asarray(np.minimum(distance, 0))
    np.testing.assert_array_equal(alibi.of_distance(back, 4), alibi.by_distance(np.asarray(back)))


def test_each_platform_takes_the_first_kernel_that_can(monkeypatch, capsys) -> None:
    """On a mesh that is only described: nothing is tried on it."""
    alibi, segments = ALiBi(8), jnp.ones((1, 256), jnp.int32)
    rotary = Pattern(segments, segments, causal=True)
    long = rotary._replace(
        **{name: jnp.ones((1, 4096), jnp.int32) for name in ("query_segments", "key_segments")}
    )
    cases = {
        "tpu": [
            (rotary, Heads(8, 64), "the kernel by distance"),
            (rotary._replace(bias=alibi), Heads(8, 64), "the kernel by distance"),
            (rotary._replace(bias=alibi), Heads(8, 112), "the kernel by distance"),
            (rotary, Heads(8, 64, 2), "splash attention"),
            (long, Heads(8, 128), "splash attention"),
            (rotary, Heads(71, 64, 1), "splash attention"),
            (rotary, Heads(4, 16, 2), None),
            (long._replace(bias=alibi), Heads(8, 64), None),
        ],
        "gpu": [(rotary, Heads(8, 64, 2), None)],  # without cuDNN; see test_other_platforms.py
        "cpu": [(rotary, Heads(8, 64), None)],
    }
    for platform, choices in cases.items():
        monkeypatch.setattr(PjitPartitioner, "platform", platform)
        with PjitPartitioner(devices=tuple(jax.devices()[:1])).activate():
            for pattern, heads, name in choices:
                taken = attend._choose(pattern, heads, "auto", jnp.bfloat16)
                assert (taken and taken.name) == name, (platform, heads)
                assert attend._choose(pattern, heads, "xla", jnp.bfloat16) is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) == 8  # one for each shape of heads and path, none for CPUs
    assert any("splash attention for 71 heads of 64 that share 1 key head (not" in x for x in lines)
    assert (
        "attention: plain XLA for 4 heads of 16 that share 2 key heads (the kernel by distance "
        "does not take 4 heads of 16 that share 2 key heads; splash attention does not take heads "
        "of 16 (it takes multiples of 64))"
    ) in lines


def test_rows_of_a_gpu_without_cudnn_say_so(monkeypatch) -> None:
    monkeypatch.setattr(PjitPartitioner, "platform", "gpu")
    segments = jnp.ones((1, 128), jnp.int32)
    with PjitPartitioner(devices=tuple(jax.devices()[:1])).activate():
        with pytest.raises(ConfigError, match="cuDNN is not detected.*allowed: 'auto'"):
            make_attend(Pattern(segments, segments, causal=True), Heads(4, 64), path="flash")
        with pytest.raises(ConfigError, match="cuDNN's attention does not take a bias"):
            biased = Pattern(segments, segments, causal=True, bias=ALiBi(4))
            make_attend(biased, Heads(4, 64), path="flash")


@pytest.mark.parametrize(
    ("lengths", "heads", "what"),
    [
        ((100, 128), Heads(4, 64), "100 x 128 positions"),
        ((128, 4096), Heads(4, 64), "up to 2,048 keys"),
        ((128, 128), Heads(4, 256), "4 heads of 256"),
        ((128, 128), Heads(4, 64, num_kv_heads=2), "4 heads of 64 that share 2 key heads"),
        ((128, 128), Heads(4, 64, num_kv_heads=2), "rows that are not causal"),
    ],
)
def test_a_kernel_that_cannot_be_had_is_an_error(lengths, heads, what) -> None:
    segments = (jnp.ones((1, length), jnp.int32) for length in lengths)
    with pytest.raises(ConfigError, match=what) as caught:
        make_attend(Pattern(*segments), heads, path="flash")
    assert "allowed: 'auto'" in str(caught.value)


@pytest.mark.slow(but="splash")
@pytest.mark.parametrize(
    ("path", "heads", "has_bias"),
    [(by_distance, SHAPE, True), (splash, Heads(12, 64, 4, 0.125), False)],
    ids=["by_distance", "splash"],
)
def test_a_kernel_is_compared_with_a_reference_before_it_is_taken(path, heads, has_bias) -> None:
    def wrong(pattern: Pattern, heads: Heads):
        kernel = path.build(pattern, heads)
        return lambda query, key, value: kernel(query, key, value) + 0.1 * query

    def broken(pattern: Pattern, heads: Heads):
        raise RuntimeError("no such instruction")

    found = {}

    def ask(x):  # while a step is traced, as `auto` does
        for build in (path.build, wrong, broken):
            found[build] = kernel_check.compare(build, heads, has_bias, jnp.bfloat16)
        return x

    jax.jit(ask)(1.0)
    assert found[path.build].agrees, found[path.build].text
    assert not found[wrong].agrees and "of the largest value on this cpu" in found[wrong].text
    assert found[broken] == (False, "fails on this cpu: RuntimeError: no such instruction")


def test_a_kernel_that_differs_is_not_taken(monkeypatch, capsys) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(PjitPartitioner, "platform", "tpu")
    outcomes = {
        True: "splash attention for 4 heads of 64 that share 2 key heads (agrees)",
        False: "plain XLA for",
    }
    segments = jnp.ones((1, 128), jnp.int32)
    for agrees, text in outcomes.items():
        outcome = kernel_check.Outcome(agrees, "agrees" if agrees else "differs by 0.5")
        monkeypatch.setattr(kernel_check, "compare", lambda *_, outcome=outcome: outcome)
        with PjitPartitioner(devices=tuple(jax.devices()[:1])).activate():
            pattern = Pattern(segments, segments, causal=True)
            taken = attend._choose(pattern, Heads(4, 64, 2), "auto", jnp.bfloat16)
        assert (taken is not None) == agrees
        assert text in capsys.readouterr().err


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
