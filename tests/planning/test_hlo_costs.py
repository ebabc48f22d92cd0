"""Costs read from compiled programs equal what the programs are known to do."""

from __future__ import annotations

import functools
import os

import compilers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_ext.models.blocks import splash
from t5x_ext.models.blocks.pattern import Heads, Pattern
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning import compiling, costs, hlo, roofline
from t5x_ext.planning.devices import DEVICES, parse_topology

V5E = DEVICES["v5e"]


@functools.cache
def tpu_devices():
    compilers.load_libtpu()
    return compiling.describe_devices(parse_topology("v5e:2x2"))


def mesh_of(devices):
    return Mesh(np.asarray(devices), ("x",), axis_types=(AxisType.Auto,))


def compile_for(devices, function, shapes, specs=None, out=None):
    """The text of a program; arrays are float32, whole on every device unless `specs` says."""
    mesh = mesh_of(devices)
    specs = specs or [PartitionSpec()] * len(shapes)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    jitted = jax.jit(function, out_shardings=NamedSharding(mesh, out or PartitionSpec()))
    return jitted.lower(*arguments).compile().as_text()


def totals_of(text, num_devices=1):
    return roofline.estimate(hlo.parse(text), V5E, num_devices)


def scanned_products(x, w):
    """Seven products of [32, 64] and [64, 64]."""
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=7)[0]


PRODUCT = 2 * 32 * 64 * 64
SHAPES = [(32, 64), (64, 64)]


def test_a_scan_counts_as_often_as_it_runs_on_a_cpu():
    text = compile_for(jax.devices()[:1], scanned_products, SHAPES)
    assert totals_of(text).flops == 7 * PRODUCT


def test_a_scan_counts_as_often_as_it_runs_on_a_tpu():
    text = compile_for(tpu_devices(), scanned_products, SHAPES)
    assert totals_of(text, 4).flops == 7 * PRODUCT


def test_nested_loops_multiply():
    def nested(x, w):
        return jax.lax.fori_loop(0, 5, lambda i, c: scanned_products(c, w), x)

    assert totals_of(compile_for(jax.devices()[:1], nested, SHAPES)).flops == 35 * PRODUCT


def loop_from_3_by_4_to_20(x, w):
    def body(state):
        index, c = state
        return index + 4, jnp.tanh(c @ w)

    return jax.lax.while_loop(lambda state: state[0] < 20, body, (jnp.int32(3), x))[1]


def loop_that_data_may_end(x, w):
    def goes_on(state):
        return (state[0] < 9) & jnp.any(state[1] > 0)

    def body(state):
        return state[0] + 1, jnp.tanh(state[1] @ w)

    return jax.lax.while_loop(goes_on, body, (jnp.int32(0), x))[1]


@pytest.mark.parametrize("loop, rounds", [(loop_from_3_by_4_to_20, 5), (loop_that_data_may_end, 9)])
def test_a_counter_decides_the_rounds(loop, rounds):
    totals = totals_of(compile_for(jax.devices()[:1], loop, SHAPES))
    assert (totals.flops, totals.unknown_loops) == (rounds * PRODUCT, 0)


def test_a_loop_that_only_data_ends_is_counted_once_and_reported():
    def until_small(x, w):
        return jax.lax.while_loop(lambda c: jnp.max(c) > 0.1, lambda c: jnp.tanh(c @ w), x)

    totals = totals_of(compile_for(jax.devices()[:1], until_small, SHAPES))
    assert (totals.flops, totals.unknown_loops) == (PRODUCT, 1)


def test_traffic_and_time_of_an_elementwise_program():
    megabytes = 4 * 4096 * 4096
    totals = totals_of(compile_for(tpu_devices(), lambda x: x + 1, [(4096, 4096)]), 4)
    assert totals.hbm_bytes == 2 * megabytes
    assert totals.step_secs == pytest.approx(2 * megabytes / V5E.hbm_bytes_per_sec)


def test_a_slice_counts_by_its_own_size():
    def read_rows(x, i):
        rows = jax.lax.dynamic_slice_in_dim(x, i.astype(jnp.int32), 8)
        return rows * 2.0

    totals = totals_of(compile_for(jax.devices()[:1], read_rows, [(4096, 1024), ()]))
    assert totals.hbm_bytes < 10 * 8 * 1024 * 4


def test_an_all_reduce_has_known_bytes_and_nothing_to_hide_behind():
    text = compile_for(
        tpu_devices(),
        lambda x: jnp.sum(x, axis=0),
        [(4, 1024, 1024)],
        [PartitionSpec("x")],
    )
    totals = totals_of(text, 4)
    payload = 4 * 1024 * 1024
    assert totals.collectives == {("all-reduce", 4): roofline.Traffic(1, payload, 1.5 * payload)}
    assert totals.exposed_secs == pytest.approx(1.5 * payload / V5E.link_bytes_per_sec)


def test_an_all_gather_has_known_bytes():
    text = compile_for(tpu_devices(), lambda x: x * 2, [(4096, 1024)], [PartitionSpec("x")])
    whole = 4 * 4096 * 1024
    totals = totals_of(text, 4)
    assert totals.collectives == {("all-gather", 4): roofline.Traffic(1, whole, 0.75 * whole)}


def test_a_reduce_scatter_is_told_from_an_all_reduce():
    text = compile_for(
        tpu_devices(),
        lambda x: jnp.sum(x, axis=0),
        [(4, 4096, 1024)],
        [PartitionSpec("x")],
        PartitionSpec("x"),
    )
    totals = totals_of(text, 4)
    assert ("all-reduce", 4) not in totals.collectives
    # The compiler pads the array a little.
    traffic = totals.collectives["reduce-scatter", 4]
    assert traffic.payload_bytes == pytest.approx(4 * 4096 * 1024, rel=0.05)
    assert traffic.wire_bytes == 0.75 * traffic.payload_bytes


@pytest.mark.parametrize("work_between, exposed_share", [(False, 1.0), (True, 0.0)])
def test_a_collective_hides_behind_the_work_between_its_start_and_end(work_between, exposed_share):
    product = "%p = f32[4096,4096]{1,0} dot(%w, %w), lhs_contracting_dims={1}"
    lines = ["%s = (f32[1024]{0}, f32[4096]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4]"]
    lines += [product] if work_between else []
    lines += ["%d = f32[4096]{0} all-gather-done(%s)"]
    lines += [] if work_between else [product]
    body = "\n  ".join(lines)
    text = f"""HloModule m, is_scheduled=true

ENTRY %main (x: f32[1024], w: f32[4096,4096]) -> f32[4096] {{
  %x = f32[1024]{{0}} parameter(0)
  %w = f32[4096,4096]{{1,0}} parameter(1)
  {body}
  ROOT %r = f32[4096]{{0}} copy(%d)
}}
"""
    totals = totals_of(text, 4)
    alone = 0.75 * 4 * 4096 / V5E.link_bytes_per_sec
    assert totals.exposed_secs == pytest.approx(exposed_share * alone)
    assert totals.step_secs == totals.operation_secs + totals.exposed_secs


def test_a_kernel_counts_what_its_author_declares():
    pallas = pytest.importorskip("jax.experimental.pallas")
    estimate = pallas.CostEstimate(flops=12345, transcendentals=0, bytes_accessed=0)

    def kernel(x_ref, o_ref):
        o_ref[...] = x_ref[...] + 1.0

    def call(x, cost):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pallas.pallas_call(kernel, out_shape=shape, cost_estimate=cost)(x)

    device = tpu_devices()[:1]
    known = totals_of(compile_for(device, lambda x: call(x, estimate), [(256, 256)]))
    unknown = totals_of(compile_for(device, lambda x: call(x, None), [(256, 256)]))
    assert (known.flops, known.kernels, known.kernels_without_cost) == (12345, 1, 0)
    assert (unknown.flops, unknown.kernels, unknown.kernels_without_cost) == (0, 1, 1)


def test_splash_attention_counts_the_blocks_it_computes():
    batch, heads, kv_heads, length, head_dim, block = 2, 4, 2, 2048, 128, 512
    rows = [(batch, length, n * head_dim) for n in (heads, kv_heads, kv_heads)]

    def grad(query, key, value):
        segments = jnp.ones((batch, length), jnp.int32)
        shape = Heads(heads, head_dim, kv_heads)
        attend = splash.build(Pattern(segments, segments, causal=True), shape)
        return jax.grad(lambda *x: jnp.sum(jnp.sin(attend(*x))), argnums=(0, 1, 2))(
            query, key, value
        )

    partitioner = PjitPartitioner(devices=tuple(tpu_devices()[:1]))
    with partitioner.activate():
        totals = totals_of(compile_for(tpu_devices()[:1], grad, rows))
    pairs = length * (length + block) // 2  # whole blocks on the diagonal
    products = 2 + 3 + 4  # forward, backward to queries, backward to keys and values
    assert totals.flops == 2 * products * batch * heads * pairs * head_dim
    assert (totals.kernels, totals.kernels_without_cost) == (3, 0)


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
def test_convolutions_count_products_with_real_elements_only(stride, dilation):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,), [(2, 2)], lhs_dilation=(dilation,)
        )

    text = (
        jax.jit(convolve)
        .lower(
            jax.ShapeDtypeStruct((2, 3, 10), jnp.float32),  # batch, features, positions
            jax.ShapeDtypeStruct((4, 3, 3), jnp.float32),
        )
        .compile()
        .as_text()
    )
    # With all ones, an output element is the number of products with real elements.
    products = convolve(jnp.ones((2, 3, 10)), jnp.ones((4, 3, 3))).sum()
    assert totals_of(text).flops == 2 * int(products)


@pytest.mark.parametrize(
    "groups, size",
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups=[4,2]<=[8]", 2),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("replica_groups=mesh['a'=4,'b'=8] {'b'}", 8),
        ("replica_groups=mesh['a'=4,'b'=8] {'a','b'}", 32),
        ("replica_groups=mesh['a'=4,'b'=8] {'b':(1)2}", 2),
        ("replica_groups={}", 16),
    ],
)
def test_group_sizes_in_every_notation(groups, size):
    text = f"""HloModule m, is_scheduled=true

ENTRY %main (x: f32[10]) -> f32[10] {{
  %x = f32[10]{{0}} parameter(0)
  ROOT %r = f32[10]{{0}} all-reduce(%x), channel_id=1, {groups}, to_apply=%add
}}
"""
    module = hlo.parse(text)
    entry = module.computations[module.entry]
    (found,) = costs.CostModel(module, 16).collectives(entry.root, entry)
    assert (found.kind, found.group_size, found.payload_bytes) == ("all-reduce", size, 40)


def test_memory_spaces_and_tuples_are_read():
    text = """HloModule m

ENTRY %main (x: bf16[8,128]) -> (f32[3], bf16[8,128]) {
  %x = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %c = f32[3]{0:T(128)} constant({1, 2, 3})
  ROOT %t = (f32[3]{0:T(128)}, /*index=1*/bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) tuple(%c, %x)
}
"""
    module = hlo.parse(text)
    root = module.computations[module.entry].root
    assert root.operands == ("c", "x")
    assert (root.num_bytes, root.hbm_bytes) == (12 + 2048, 12)


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule m\n")


def test_a_program_that_jax_cannot_show_is_read_from_the_dump_without_noise(tmp_path, capfd):
    class Unknown:
        def as_text(self):
            os.write(2, b"*** Begin stack trace ***\n")  # as native code does
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    (tmp_path / "m.jit_step.after_optimizations.txt").write_text("HloModule step")
    assert compiling._program_text(Unknown(), str(tmp_path)) == "HloModule step"
    os.write(2, b"still open\n")
    assert capfd.readouterr().err == "still open\n"
