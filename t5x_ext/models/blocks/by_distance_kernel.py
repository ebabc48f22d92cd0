"""Attention as a TPU kernel: logits live in a core's own memory and are never written out.

T5's relative position bias is a number per head and distance, so the kernel is given that vector
[H, Q + K] and lays its diagonals out itself; its gradient is summed over rows, heads' diagonals
and batch in the kernel too. A bias of [H, Q, K] never exists. The backward pass computes the
logits again from query and key, so nothing but the inputs is kept.

A program holds `_LANES / C` heads of one row, `_block_rows` queries and all keys: the softmax
needs no running maximum. Heads are told apart by masking lanes, so query, key and value stay in
the layout [B, L, H*C] in which the projections write them.

Letters used in shapes: B batch, Q query length, K key length, H heads, C head_dim.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec

_LANES = 128
_SUBLANES = 8
_MASKED = -1e10  # as in the reference: a row without keys has a uniform softmax
_LOGITS_PER_BLOCK = 1 << 18  # float32 numbers of one [queries, keys] block: 1 MiB
_VMEM_BYTES = 15 << 20  # of 16 MiB on the smallest TPU (v4)


SUITABLE = (
    f"it takes lengths that are multiples of {_LANES}, up to {_LOGITS_PER_BLOCK // _LANES:,} keys, "
    f"and heads of at most {_LANES}"
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is fixed when the kernel is traced.

    Attributes:
      head_dim: C.
      causal: keys ahead of the query are hidden.
      mesh: devices to run on, each on its own rows and heads; None for one device.
      rows: spec of [B, L, H*C].
      heads: spec of [H, Q + K].
    """

    head_dim: int
    causal: bool
    mesh: Mesh | None = None
    rows: PartitionSpec = PartitionSpec()
    heads: PartitionSpec = PartitionSpec()


def suits(query_length: int, key_length: int) -> bool:
    """Whether the kernel takes rows of these lengths."""
    aligned = query_length % _LANES == 0 and key_length % _LANES == 0
    return aligned and _LANES * key_length <= _LOGITS_PER_BLOCK


def padded_head_dim(num_heads: int, head_dim: int) -> int | None:
    """The least size of a device's heads, `head_dim` or more, at which they fill whole lanes.

    Zeros at the end of each head change no product: MPT 30B's heads of 112 become 128 long. None:
    the heads are longer than a core has lanes.
    """
    sizes = (1 << power for power in range(_LANES.bit_length()))
    fits = (size for size in sizes if size >= head_dim and num_heads * size % _LANES == 0)
    return next(fits, None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def flash_attention(
    layout: Layout,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    by_distance: jax.Array | None,
    query_segments: jax.Array,
    key_segments: jax.Array,
) -> jax.Array:
    """Attention of rows in segments, with T5's relative position bias.

    Args:
      layout: shapes and devices.
      query: [B, Q, H*C].
      key: [B, K, H*C].
      value: [B, K, H*C].
      by_distance: float32 [H, Q + K], bias of query i and key j at j - i + Q - 1; None for none.
      query_segments: int32 [B, Q].
      key_segments: int32 [B, K]; 0 is padding.

    Returns:
      [B, Q, H*C] in the dtype of `query`.
    """
    operands = (query, key, value, by_distance, query_segments, key_segments)
    return _per_device(layout, functools.partial(_forward_kernel_call, layout), operands, ("rows",))


def _flash_fwd(layout: Layout, *operands: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    return flash_attention(layout, *operands), operands


def _flash_bwd(layout: Layout, operands: tuple[Any, ...], grad: jax.Array) -> tuple[Any, ...]:
    has_bias = operands[3] is not None
    outputs = ("rows", "rows", "rows") + (("heads",) if has_bias else ())
    call = functools.partial(_backward_kernel_call, layout)
    grads = _per_device(layout, call, (*operands, grad), outputs)
    d_bias = grads[3] if has_bias else None
    return (*grads[:3], d_bias, None, None)


flash_attention.defvjp(_flash_fwd, _flash_bwd)


def _per_device(layout: Layout, call: Any, operands: tuple[Any, ...], outputs: tuple[str, ...]):
    """Runs `call` on each device's part of the operands."""
    if layout.mesh is None:
        return call(*operands)
    batch_axes = layout.rows[0]
    by_row = PartitionSpec(batch_axes, None)
    specs = [layout.rows] * 3 + [layout.heads, by_row, by_row] + [layout.rows] * (len(operands) - 6)
    out_specs = tuple(layout.rows if name == "rows" else layout.heads for name in outputs)

    def local(*parts: Any) -> Any:
        results = call(*parts)
        if "heads" in outputs and batch_axes:
            # Every device saw other rows; the bias is the same for all.
            return (*results[:-1], jax.lax.psum(results[-1], batch_axes))
        return results

    taken = [i for i, operand in enumerate(operands) if operand is not None]

    def without_none(*parts: Any) -> Any:
        whole = [None] * len(operands)
        for index, part in zip(taken, parts, strict=True):
            whole[index] = part
        return local(*whole)

    mapped = jax.shard_map(
        without_none,
        mesh=layout.mesh,
        in_specs=tuple(specs[i] for i in taken),
        out_specs=out_specs if len(outputs) > 1 else out_specs[0],
        check_vma=False,  # a kernel does not say over which axes its results vary
    )
    return mapped(*(operands[i] for i in taken))


def _block_rows(query_length: int, key_length: int) -> int:
    """Queries per program: as many as the logits' memory allows, 256 at most."""
    rows = 2 * _LANES
    while rows > _LANES and (query_length % rows or rows * key_length > _LOGITS_PER_BLOCK):
        rows //= 2
    return rows


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """The grid (groups of heads, rows, blocks of queries) and what each program sees."""

    batch: int
    query_length: int
    key_length: int
    groups: int
    heads_per_group: int
    rows: int

    @classmethod
    def of(cls, layout: Layout, query: jax.Array, key: jax.Array) -> _Blocks:
        """The grid for one device's arrays."""
        batch, query_length, width = query.shape
        key_length = key.shape[1]
        return cls(
            batch,
            query_length,
            key_length,
            width // _LANES,
            _LANES // layout.head_dim,
            _block_rows(query_length, key_length),
        )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Queries innermost: keys and values of a row and group are fetched once."""
        return self.groups, self.batch, self.query_length // self.rows

    @property
    def queries(self) -> pl.BlockSpec:
        """[1, rows, 128] of [B, Q, H*C]."""
        return pl.BlockSpec((1, self.rows, _LANES), lambda g, b, i: (b, i, g))

    @property
    def keys(self) -> pl.BlockSpec:
        """[1, K, 128] of [B, K, H*C]."""
        return pl.BlockSpec((1, self.key_length, _LANES), lambda g, b, i: (b, 0, g))

    @property
    def distances(self) -> pl.BlockSpec:
        """[1, heads, Q + K] of [groups, heads, Q + K]."""
        length = self.query_length + self.key_length
        return pl.BlockSpec((1, self.heads_per_group, length), lambda g, b, i: (g, 0, 0))

    @property
    def segments(self) -> tuple[pl.BlockSpec, pl.BlockSpec]:
        """A column of queries' segments and a row of keys'."""
        return (
            pl.BlockSpec((1, self.rows, 1), lambda g, b, i: (b, i, 0)),
            pl.BlockSpec((1, 1, self.key_length), lambda g, b, i: (b, 0, 0)),
        )

    def operands(self, query, key, value, by_distance, q_segments, k_segments):
        """Arrays and specs in the order the kernels take them; the bias last, if there is one."""
        arrays = [query, key, value, q_segments[:, :, None], k_segments[:, None, :]]
        specs = [self.queries, self.keys, self.keys, *self.segments]
        if by_distance is not None:
            arrays.append(by_distance.reshape(self.groups, self.heads_per_group, -1))
            specs.append(self.distances)
        return arrays, specs

    def cost(self, layout: Layout, matmuls: int, moved: list[Any]) -> pl.CostEstimate:
        """Products that mathematics asks for; the masked lanes are not counted."""
        pairs = self.batch * self.groups * self.heads_per_group * self.query_length
        pairs *= self.key_length
        return pl.CostEstimate(
            flops=2 * matmuls * pairs * layout.head_dim,
            transcendentals=pairs,
            bytes_accessed=sum(a.size * a.dtype.itemsize for a in moved),
        )


def _params(*semantics: str) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=_VMEM_BYTES)


def _forward_kernel_call(
    layout: Layout, query, key, value, by_distance, query_segments, key_segments
) -> jax.Array:
    blocks = _Blocks.of(layout, query, key)
    arrays, specs = blocks.operands(query, key, value, by_distance, query_segments, key_segments)

    def kernel(q_ref, k_ref, v_ref, q_seg_ref, k_seg_ref, *rest):
        bias_ref, out_ref = rest if by_distance is not None else (None, *rest)
        visible = _visible(blocks, layout, q_seg_ref, k_seg_ref)
        total = jnp.zeros((blocks.rows, _LANES), jnp.float32)
        for head in range(blocks.heads_per_group):
            own = _own_lanes(layout, head)
            weights = _weights(blocks, own, q_ref, k_ref, bias_ref, head, visible)
            product = _dot(weights.astype(v_ref.dtype), v_ref[0], 1, 0)
            total += jnp.where(own, product, 0.0)
        out_ref[0] = total.astype(out_ref.dtype)

    return pl.pallas_call(
        kernel,
        grid=blocks.grid,
        in_specs=specs,
        out_specs=blocks.queries,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        cost_estimate=blocks.cost(layout, 2, [*arrays, query]),
        compiler_params=_params("parallel", "parallel", "arbitrary"),
        interpret=_interpret(layout),
        name="flash_attention_forward",
    )(*arrays)


def _backward_kernel_call(
    layout: Layout, query, key, value, by_distance, query_segments, key_segments, grad
) -> tuple[jax.Array, ...]:
    blocks = _Blocks.of(layout, query, key)
    arrays, specs = blocks.operands(query, key, value, by_distance, query_segments, key_segments)
    has_bias = by_distance is not None
    last_block = blocks.grid[2] - 1

    def kernel(q_ref, k_ref, v_ref, q_seg_ref, k_seg_ref, *rest):
        bias_ref, rest = (rest[0], rest[1:]) if has_bias else (None, rest)
        grad_ref, dq_ref, dk_ref, dv_ref, *rest = rest
        d_bias_ref = rest.pop(0) if has_bias else None
        dk_sum, dv_sum = rest
        row, block = pl.program_id(1), pl.program_id(2)

        @pl.when(block == 0)
        def _():
            dk_sum[...] = jnp.zeros_like(dk_sum)
            dv_sum[...] = jnp.zeros_like(dv_sum)

        if has_bias:

            @pl.when((row == 0) & (block == 0))
            def _():
                d_bias_ref[...] = jnp.zeros_like(d_bias_ref)

        visible = _visible(blocks, layout, q_seg_ref, k_seg_ref)
        dq = jnp.zeros((blocks.rows, _LANES), jnp.float32)
        for head in range(blocks.heads_per_group):
            own = _own_lanes(layout, head)
            weights = _weights(blocks, own, q_ref, k_ref, bias_ref, head, visible)
            own_grad = jnp.where(own, grad_ref[0], 0)
            d_weights = _dot(own_grad, v_ref[0], 1, 1)
            mean = jnp.sum(weights * d_weights, axis=1, keepdims=True)
            d_logits = jnp.where(visible, weights * (d_weights - mean), 0.0)
            if has_bias:
                _add_diagonals(blocks, d_bias_ref, head, d_logits)
            d_logits = d_logits.astype(q_ref.dtype)
            dq += jnp.where(own, _dot(d_logits, k_ref[0], 1, 0), 0.0)
            dk_sum[...] += _dot(d_logits, jnp.where(own, q_ref[0], 0), 0, 0)
            dv_sum[...] += _dot(weights.astype(q_ref.dtype), own_grad, 0, 0)
        dq_ref[0] = dq.astype(dq_ref.dtype)

        @pl.when(block == last_block)
        def _():
            dk_ref[0] = dk_sum[...].astype(dk_ref.dtype)
            dv_ref[0] = dv_sum[...].astype(dv_ref.dtype)

    out_specs = [blocks.queries, blocks.keys, blocks.keys]
    out_shape = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (query, key, value)]
    if has_bias:
        out_specs.append(blocks.distances)
        out_shape.append(jax.ShapeDtypeStruct(arrays[-1].shape, jnp.float32))
    sums = pltpu.VMEM((blocks.key_length, _LANES), jnp.float32)
    results = pl.pallas_call(
        kernel,
        grid=blocks.grid,
        in_specs=[*specs, blocks.queries],
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=[sums, sums],
        cost_estimate=blocks.cost(layout, 5, [*arrays, grad, *out_shape]),
        compiler_params=_params("parallel", "arbitrary", "arbitrary"),
        interpret=_interpret(layout),
        name="flash_attention_backward",
    )(*arrays, grad)
    if not has_bias:
        return tuple(results)
    return (*results[:3], results[3].reshape(by_distance.shape))


def _interpret(layout: Layout) -> bool:
    """Only TPUs run the kernel itself; elsewhere (in tests) its steps run as ordinary XLA."""
    if layout.mesh is not None:
        return layout.mesh.devices.flat[0].platform != "tpu"
    return jax.default_backend() != "tpu"


def _dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Contracts one axis of each matrix, in float32."""
    dimensions = (((a_axis,), (b_axis,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _own_lanes(layout: Layout, head: int) -> jax.Array:
    """True on the lanes of a head: bool [1, 128]."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, _LANES), 1)
    return lane // layout.head_dim == head


def _visible(blocks: _Blocks, layout: Layout, q_seg_ref: Any, k_seg_ref: Any) -> jax.Array:
    """True where a query may look at a key: bool [rows, K]."""
    keys = k_seg_ref[0]  # [1, K]
    visible = (q_seg_ref[0] == keys) & (keys > 0)
    if layout.causal:
        shape = (blocks.rows, blocks.key_length)
        position = jax.lax.broadcasted_iota(jnp.int32, shape, 0) + pl.program_id(2) * blocks.rows
        visible &= position >= jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return visible


def _weights(
    blocks: _Blocks, own: jax.Array, q_ref: Any, k_ref: Any, bias_ref: Any, head: int, visible: Any
) -> jax.Array:
    """Softmax of one head's logits: float32 [rows, K]."""
    logits = _dot(jnp.where(own, q_ref[0], 0), k_ref[0], 1, 1)
    if bias_ref is not None:
        logits += _diagonals(blocks, bias_ref, head)
    logits = jnp.where(visible, logits, _MASKED)
    weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _window(blocks: _Blocks) -> Any:
    """Where this program's distances lie in [0, Q + K): K + rows of them."""
    start = blocks.query_length - (pl.program_id(2) + 1) * blocks.rows
    return pl.ds(pl.multiple_of(start, _LANES), blocks.key_length + blocks.rows)


def _diagonals(blocks: _Blocks, bias_ref: Any, head: int) -> jax.Array:
    """Biases of this program's queries and all keys: float32 [rows, K].

    Row r needs the window from entry rows - 1 - r on, so every row is rolled one place further. Not
    all TPUs can roll each row by another amount: 8 rows are rolled apart, slabs of those 8 alike.
    """
    window = bias_ref[0, head : head + 1, _window(blocks)]
    rows, width = blocks.rows, window.shape[1]
    apart = [
        pltpu.roll(window, (width - (rows - 1) + row) % width, axis=1) for row in range(_SUBLANES)
    ]
    slab = jnp.concatenate(apart, axis=0)
    slabs = [pltpu.roll(slab, first, axis=1) for first in range(0, rows, _SUBLANES)]
    return jnp.concatenate([part[:, : blocks.key_length] for part in slabs], axis=0)


def _add_diagonals(blocks: _Blocks, d_bias_ref: Any, head: int, d_logits: jax.Array) -> None:
    """Adds every diagonal's sum to its distance: `_diagonals`, transposed step by step."""
    rows, width = blocks.rows, blocks.key_length + blocks.rows
    padded = jnp.concatenate([d_logits, jnp.zeros((rows, rows), jnp.float32)], axis=1)
    slab = jnp.zeros((_SUBLANES, width), jnp.float32)
    for first in range(0, rows, _SUBLANES):
        part = padded[first : first + _SUBLANES]
        slab += pltpu.roll(part, (rows - 1 - first) % width, axis=1)
    total = slab[:1]
    for row in range(1, _SUBLANES):
        total += pltpu.roll(slab[row : row + 1], width - row, axis=1)
    d_bias_ref[0, head : head + 1, _window(blocks)] += total
