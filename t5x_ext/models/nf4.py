"""Frozen kernels in four bits a number: NF4 with double quantisation, as QLoRA has them.

A number is one of 16 codes times the largest magnitude of its block of 64. Those magnitudes are
kept in eight bits each, times a scale for 256 of them, plus their mean: 4.127 bits a number in all.
The bytes are those of bitsandbytes: it quantises the weight [out, in], which is our kernel [in,
out] transposed, row by row. Where 64 does not divide `in`, a block runs over to the next row.

Codes stay packed until the product that uses them. Dequantising writes the kernel once, as large
as the compute dtype makes it, and the next layer's takes its place. On two cores, a product of 512
rows with 2048 x 2048 codes took 0.9 times what it took with float32 numbers; one of 8 rows, which
has little to do besides dequantising, 1.8 times.

Source: QLoRA, https://arxiv.org/abs/2305.14314, section 3.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from t5x_ext.models.parameters import Params, ParamSpec, map_specs
from t5x_ext.partitioning import PjitPartitioner, active_partitioner

BLOCK = 64  # numbers that share a magnitude
GROUP = 256  # magnitudes that share a scale

# The quantiles of a normal distribution that QLoRA's authors computed, and zero.
CODES = np.array(
    (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    np.float32,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NF4:
    """A kernel [..., in, out] in four bits a number: a pytree, which scans and vmaps slice.

    Leading axes (layers) are those of every array; each matrix is quantised alone. With N = in *
    out, the two arrays of codes are flat where 64 does not divide `in`.

    Attributes:
      codes: uint8 [..., out, in / 2], or [..., ceil(N / 2)]; the first number in the high half.
      absmax_codes: uint8 [..., out, in / 64], or [..., ceil(N / 64)]; into `absmax_table`.
      absmax_scales: float32 [..., ceil(N / 64 / 256)].
      absmax_offset: float32 [...].
      matrix: (in, out).
    """

    codes: Any
    absmax_codes: Any
    absmax_scales: Any
    absmax_offset: Any
    matrix: tuple[int, int] = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel: [..., in, out]."""
        return (*self.absmax_offset.shape, *self.matrix)

    @property
    def has_rows(self) -> bool:
        """Whether codes have an axis `out`, which a mesh can split."""
        return self.matrix[0] % BLOCK == 0

    def gather(self, axes: Sequence[str | None]) -> NF4:
        """All-gathers the codes as `partitioning.gather` does a kernel with these logical axes.

        What travels is four bits a number.
        """
        partitioner = active_partitioner()
        if partitioner is None:
            return self
        return jax.tree.map(
            jax.lax.with_sharding_constraint,
            self,
            _shardings(self, partitioner, partitioner.gathered_spec(axes)),
        )

    def bytes_per_device(self, partitioner: PjitPartitioner, spec: PartitionSpec) -> int:
        """Bytes that one device holds of a kernel split as `spec` says; arrays or their shapes."""
        shardings = jax.tree.leaves(_shardings(self, partitioner, spec))
        pairs = zip(jax.tree.leaves(self), shardings, strict=True)
        return sum(partitioner.bytes_per_device(x, sharding.spec) for x, sharding in pairs)


def is_quantisable(spec: ParamSpec) -> bool:
    """Whether NF4 is to hold a parameter: a kernel within a stack of layers.

    Adapters, embeddings, norms, position tables and the output projection keep their numbers.
    """
    return spec.is_kernel and not spec.is_adapter and spec.axes[0] == "layers"


def abstract(spec: ParamSpec, partitioner: PjitPartitioner | None = None) -> NF4:
    """Shapes and dtypes of a quantised kernel, and its shardings on a mesh.

    Each array is split as the kernel is, but along an axis that its mesh axes do not divide it is
    whole: `in` is cut at multiples of 64 or not at all.
    """
    *leading, num_in, num_out = spec.shape
    blocks = -(-num_in * num_out // BLOCK)
    by_row = num_in % BLOCK == 0
    flat_codes = -(-num_in * num_out // 2)
    struct = functools.partial(_struct, tuple(leading))
    nf4 = NF4(
        codes=struct(jnp.uint8, *((num_out, num_in // 2) if by_row else (flat_codes,))),
        absmax_codes=struct(jnp.uint8, *((num_out, num_in // BLOCK) if by_row else (blocks,))),
        absmax_scales=struct(jnp.float32, -(-blocks // GROUP)),
        absmax_offset=struct(jnp.float32),
        matrix=(num_in, num_out),
    )
    if partitioner is None:
        return nf4
    shardings = _shardings(nf4, partitioner, partitioner.spec(spec.axes))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nf4,
        shardings,
    )


def quantise_abstract(
    specs: Params, params: Params, partitioner: PjitPartitioner | None = None
) -> Params:
    """A tree of parameters' shapes with `abstract` in the place of each kernel of a layer."""
    return map_specs(
        lambda spec, leaf: abstract(spec, partitioner) if is_quantisable(spec) else leaf,
        specs,
        params,
    )


def num_bytes(nf4: NF4) -> int:
    """Bytes of all arrays, or of what they are to be."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(nf4))


def dequantize(nf4: NF4, dtype: Any = jnp.float32) -> jax.Array:
    """The kernel [..., in, out]: computed in float32, then cast."""
    return _weight(nf4, dtype).swapaxes(-1, -2)


@jax.custom_vjp
def product(x: jax.Array, nf4: NF4) -> jax.Array:
    """x @ kernel in the dtype of `x`: [..., in] -> [..., out].

    The backward pass keeps codes, dequantises them again, and has a gradient for `x` alone.
    """
    return _contract(x, _weight(nf4, x.dtype), 1)


def _product_fwd(x: jax.Array, nf4: NF4) -> tuple[jax.Array, NF4]:
    return product(x, nf4), nf4


def _product_bwd(nf4: NF4, gradient: jax.Array) -> tuple[jax.Array, None]:
    return _contract(gradient, _weight(nf4, gradient.dtype), 0), None


product.defvjp(_product_fwd, _product_bwd)


def absmax_table() -> np.ndarray:
    """The 256 values of an eight-bit magnitude, float32: bitsandbytes' signed dynamic map.

    A sign, an exponent in unary, and as many bits of a linear fraction as are left:
    0, 1, and +-10**-e times the middles of 2**(6 - e) equal parts of [0.1, 1], for e = 0 to 6.
    """
    values = [0.0, 1.0]
    for bits in range(7):
        ends = _linspace(2**bits + 1)
        middles = (ends[:-1] + ends[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (bits - 6)) * middles
        values += [*scaled, *-scaled]
    return np.sort(np.array(values, np.float32))


def _linspace(count: int) -> np.ndarray:
    """torch.linspace(0.1, 1, count) to the bit: from either end, each value rounded once."""
    step = np.float64((np.float32(1) - np.float32(0.1)) / np.float32(count - 1))
    index = np.arange(count)
    from_first = np.float64(np.float32(0.1)) + step * index
    from_last = 1.0 - step * (count - 1 - index)
    return np.where(index < count // 2, from_first, from_last).astype(np.float32)


def _contract(x: jax.Array, weight: jax.Array, axis: int) -> jax.Array:
    """The last axis of `x` with one of the weight's; rows in one axis, as in `Linear`."""
    rows = x.reshape(-1, x.shape[-1])
    result = jax.lax.dot_general(rows, weight, (((1,), (axis,)), ((), ())))
    return result.reshape(*x.shape[:-1], -1)


def _weight(nf4: NF4, dtype: Any) -> jax.Array:
    """The transposed kernel [..., out, in], the order in which codes lie."""
    leading = nf4.absmax_offset.shape
    num_in, num_out = nf4.matrix
    absmax = _absmax(nf4)
    halves = jnp.array([4, 0], jnp.uint8)
    numbers = _look_up((nf4.codes[..., None] >> halves) & 15)  # [..., bytes, 2]
    if nf4.has_rows:
        # [..., out, in / 64, 64]
        numbers = numbers.reshape(*leading, num_out, -1, BLOCK) * absmax[..., None]
    else:
        numbers = numbers.reshape(*leading, -1)[..., : num_in * num_out]
        numbers = numbers * jnp.repeat(absmax, BLOCK, axis=-1)[..., : num_in * num_out]
    return numbers.astype(dtype).reshape(*leading, num_out, num_in)


def _absmax(nf4: NF4) -> jax.Array:
    """The magnitude of each block, float32 in the shape of `absmax_codes`."""
    shape = nf4.absmax_codes.shape[nf4.absmax_offset.ndim :]
    block = jnp.arange(math.prod(shape)).reshape(shape)
    scales = nf4.absmax_scales[..., block // GROUP]
    scaled = jnp.asarray(absmax_table())[nf4.absmax_codes] * scales
    # Clipping changes no value, as the table's largest is 1. It keeps compilers from rounding
    # product and sum as one, which bitsandbytes does not.
    return jnp.clip(scaled, -scales, scales) + nf4.absmax_offset[(..., *(None,) * len(shape))]


def _look_up(index: jax.Array) -> jax.Array:
    """CODES[index]. TPUs gather slowly; CPUs choose two to eight times more slowly."""
    return jax.lax.platform_dependent(index, tpu=_choose, default=_gather)


def _gather(index: jax.Array) -> jax.Array:
    return jnp.take(CODES, index, mode="clip")


def _choose(index: jax.Array) -> jax.Array:
    # On the bits, as selecting floats would make 16 constants as large as the kernel.
    values: list[Any] = list(CODES.view(np.int32))
    for bit in range(4):
        is_odd = -((index >> bit) & 1).astype(jnp.int32)  # all bits, or none
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [even ^ (is_odd & (even ^ odd)) for even, odd in pairs]
    return jax.lax.bitcast_convert_type(values[0], jnp.float32)


def _struct(leading: tuple[int, ...], dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*leading, *shape), dtype)


def _shardings(nf4: NF4, partitioner: PjitPartitioner, spec: PartitionSpec) -> NF4:
    """Shardings of the arrays, given the mesh axes of the kernel [..., in, out]."""
    entries: list[Any] = [*spec, *[None] * (len(nf4.shape) - len(spec))]
    *leading, of_in, of_out = entries
    rows = (*leading, of_out, of_in) if nf4.has_rows else (*leading, None)

    def one(array: Any, entries: tuple[Any, ...]) -> NamedSharding:
        mesh = partitioner.mesh
        kept = [
            entry if length % _parts(mesh, entry) == 0 else None
            for length, entry in zip(array.shape, entries, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*kept))

    return dataclasses.replace(
        nf4,
        codes=one(nf4.codes, rows),
        absmax_codes=one(nf4.absmax_codes, rows),
        absmax_scales=one(nf4.absmax_scales, (*leading, None)),
        absmax_offset=one(nf4.absmax_offset, tuple(leading)),
    )


def _parts(mesh: Any, entry: Any) -> int:
    names = (entry,) if isinstance(entry, str) else (entry or ())
    return math.prod(mesh.shape[name] for name in names)
