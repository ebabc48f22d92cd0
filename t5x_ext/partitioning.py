"""Device meshes, and the one table from logical axes to mesh axes.

Mesh axes, outermost first: `expert` (stacked models), `data` (batch only), `fsdp` (batch, and
parameters are split over it), `model` (heads, feed-forward and vocabulary). Parameters and
activations carry logical axis names, and other code asks the partitioner how many parts there are.
Few others take the mesh itself: shard_map kernels, NF4 shardings and plans.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_ext import bounds, meshes
from t5x_ext.errors import ConfigError

MESH_AXES = ("expert", "data", "fsdp", "model")
EXPERT_AXIS = MESH_AXES[0]

LogicalAxisRules = tuple[tuple[str, Any], ...]


def standard_logical_axis_rules(
    activation_partitioning_dims: int = 1,
    parameter_partitioning_dims: int = 1,
    additional_rules: Sequence[tuple[str, Any]] = (),
) -> LogicalAxisRules:
    """Logical axis -> mesh axis, a tuple of mesh axes, or None (not split).

    A mesh axis is used at most once in an array; a later rule that would reuse one is skipped. An
    axis may have several rules: the first that fits counts, see `PjitPartitioner.spec`.

    Args:
      activation_partitioning_dims: 2 splits the width of activations over `model` too.
      parameter_partitioning_dims: 2 splits parameters over `data` too, not over `fsdp` alone.
      additional_rules: come after these.

    Raises:
      ConfigError: a number of dimensions is neither 1 nor 2.
    """
    for name, dims in (
        ("activation_partitioning_dims", activation_partitioning_dims),
        ("parameter_partitioning_dims", parameter_partitioning_dims),
    ):
        if dims not in (1, 2):
            raise ConfigError(f"standard_logical_axis_rules.{name}: {dims}; allowed: 1, 2")
    return (
        ("expert", "expert"),
        ("batch", ("data", "fsdp")),
        ("vocab", "model"),
        ("mlp", "model"),
        ("heads", "model"),
        ("joined_kv", "model"),
        ("kv", None),
        *([("embed", "model")] if activation_partitioning_dims == 2 else []),
        ("embed", "fsdp" if parameter_partitioning_dims == 1 else ("data", "fsdp")),
        ("length", None),
        ("relpos_buckets", None),
        ("layers", None),
        *((axis, target) for axis, target in additional_rules or ()),
    )


@dataclasses.dataclass(frozen=True)
class PjitPartitioner:
    """Lays devices out as a mesh and turns logical axes into shardings.

    Attributes:
      num_partitions: T5X's knob: devices that share one copy of the parameters along `model`.
      model_parallel_submesh: T5X's other knob, (x, y, z, core): the tile of a TPU slice's grid that
        shares one copy of the parameters; its product is `num_partitions`.
      logical_axis_rules: the table; None means `standard_logical_axis_rules()`.
      data: devices along `data`; -1 takes what the other axes leave.
      fsdp: devices along `fsdp`.
      model: devices along `model`; `num_partitions` is another name for it.
      expert: devices along `expert`; -1 takes what the other axes leave, and `data` is given.
      devices: devices to use; None means all.
      device_bytes: what a program may use of one device's memory; None asks the devices. Plans set
        it: a device that is only described cannot be asked.
    """

    num_partitions: int | None = None
    model_parallel_submesh: Sequence[int] | None = None
    logical_axis_rules: Sequence[tuple[str, Any]] | None = None
    data: int = -1
    fsdp: int = 1
    model: int = 1
    expert: int = 1
    devices: Sequence[Any] | None = dataclasses.field(default=None, compare=False)
    device_bytes: int | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        lowest = {"num_partitions": 1, "fsdp": 1, "model": 1, "device_bytes": 0}
        for field, low in (lowest | {"data": -1, "expert": -1}).items():
            value = getattr(self, field)
            if value is not None:
                bounds.check_int(f"PjitPartitioner.{field}", value, low)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The mesh with axes `MESH_AXES`; raises ConfigError where it does not fit the devices."""
        devices = list(self.devices or jax.devices())
        model = self._model_size()
        asked = (self.expert, self.data, self.fsdp, model)
        left = len(devices) // max(-math.prod(asked), 1)  # for the one that is -1
        expert, data = (left if size == -1 else size for size in asked[:2])
        shape = (expert, data, self.fsdp, model)
        if min(shape) < 1 or math.prod(shape) != len(devices):
            wanted = " x ".join(f"{a}={s}" for a, s in zip(MESH_AXES, shape, strict=True))
            raise ConfigError(
                f"PjitPartitioner: mesh {wanted} does not divide {len(devices)} devices; "
                "the product of all axes must equal the number of devices"
            )
        grid = meshes.arrange(devices, shape, self.model_parallel_submesh)
        return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))

    def _model_size(self) -> int:
        submesh = self.model_parallel_submesh
        # T5X's run files always say num_partitions = 1; it does not contradict the others.
        partitions = 1 if self.num_partitions is None else self.num_partitions
        sizes = (partitions, math.prod(submesh or ()), self.model)
        asked = {size for size in sizes if size != 1}
        if len(asked) > 1:
            raise ConfigError(
                f"PjitPartitioner: num_partitions={self.num_partitions}, "
                f"model_parallel_submesh={submesh} and model={self.model} disagree; set one"
            )
        return asked.pop() if asked else 1

    @property
    def platform(self) -> str:
        """'cpu', 'gpu' or 'tpu', also of devices that are only described."""
        return self.mesh.devices.flat[0].platform

    @functools.cached_property
    def memory_bytes(self) -> int:
        """What a program may use of one device's memory: the least of all hosts' devices.

        Devices of the host itself share half of its memory: data needs some too.
        """
        if self.device_bytes is not None:
            return self.device_bytes
        devices = self.mesh.local_devices
        stats = devices[0].memory_stats()
        if stats is not None:
            own = stats["bytes_limit"]
        else:
            host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            own = host_bytes // (2 * len(devices))
        if jax.process_count() == 1:
            return own
        # Every host must come to the same decision from it. In KiB, which int32 holds.
        return int(multihost_utils.process_allgather(np.int32(own >> 10)).min()) << 10

    @property
    def axis_sizes(self) -> dict[str, int]:
        """Devices along each mesh axis, as reports show them."""
        return {axis: int(size) for axis, size in self.mesh.shape.items()}

    @property
    def num_expert_slots(self) -> int:
        """Parts of the mesh that each hold separate models."""
        return self.mesh.shape["expert"]

    @property
    def num_batch_shards(self) -> int:
        """Parts into which the global batch is cut."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def num_model_shards(self) -> int:
        """Parts into which heads, feed-forward and vocabulary are cut."""
        return self.mesh.shape["model"]

    def check_batch(self, batch_size: int, num_microbatches: int = 1) -> None:
        """Raises ConfigError unless `batch_size` (examples, global) splits evenly."""
        parts = self.num_batch_shards * num_microbatches
        if batch_size % parts:
            raise ConfigError(
                f"BATCH_SIZE: {batch_size} examples do not divide into {self.num_batch_shards} "
                f"batch shards (data x fsdp) x {num_microbatches} microbatches; allowed: "
                f"multiples of {parts}"
            )

    def round_up_batch(self, batch_size: int) -> int:
        """The next number of rows that divides; where filler rows do no harm."""
        return -(-batch_size // self.num_batch_shards) * self.num_batch_shards

    def spec(self, axes: Sequence[str | None]) -> PartitionSpec:
        """Logical axes of an array -> mesh axes, each mesh axis used at most once.

        As in T5X, the rules are gone through in their order, whatever that of the array's axes: an
        axis takes the first rule for it whose mesh axes are all still free, and is not split where
        there is none.
        """
        rules = tuple(self.logical_axis_rules or standard_logical_axis_rules())
        known = {axis for axis, _ in rules}
        for axis in axes:
            if axis is not None and axis not in known:
                raise ConfigError(
                    f"logical_axis_rules: no rule for axis {axis!r}; known: "
                    f"{', '.join(dict.fromkeys(axis for axis, _ in rules))}"
                )
        taken: dict[str | None, Any] = {}
        used: set[str] = set()
        for axis, target in rules:
            names = _names(target)
            if axis in axes and axis not in taken and not names & used:
                taken[axis] = target
                used |= names
        return PartitionSpec(*(_entry(taken.get(axis)) for axis in axes))

    def sharding(self, axes: Sequence[str | None]) -> NamedSharding:
        """The sharding of an array with these logical axes."""
        return NamedSharding(self.mesh, self.spec(axes))

    def gathered_spec(self, axes: Sequence[str | None]) -> PartitionSpec:
        """`spec` without the mesh axes that split the batch: a parameter ready for use by rows."""
        batch = _names(self.spec(("batch",))[0])
        return PartitionSpec(*(None if _names(e) & batch else e for e in self.spec(axes)))

    def bytes_per_device(self, array: jax.ShapeDtypeStruct, spec: PartitionSpec) -> int:
        """Bytes that one device holds of an array split as `spec` says."""
        shard = NamedSharding(self.mesh, spec).shard_shape(array.shape)
        return math.prod(shard) * array.dtype.itemsize

    def stacked(self, sharding: NamedSharding) -> NamedSharding:
        """The sharding of E such arrays stacked on a leading axis, which `expert` splits."""
        return NamedSharding(self.mesh, PartitionSpec(EXPERT_AXIS, *sharding.spec))

    def host_rows(self, batch_size: int) -> tuple[int, int]:
        """The rows of a batch [B, ...] that this host's devices hold: first, one past the last.

        Hosts hold the same rows where `model` or `expert` spans them.
        """
        sharding = self.sharding(("batch", None))
        held: Mapping[Any, Any] = sharding.addressable_devices_indices_map((batch_size, 1))
        bounds = [rows.indices(batch_size) for rows, _ in held.values()]
        return min(first for first, _, _ in bounds), max(last for _, last, _ in bounds)

    def put_rows(self, local: np.ndarray, batch_size: int) -> jax.Array:
        """This host's rows, `host_rows(batch_size)` -> one global array [B, L] over the batch axes.

        Raises:
          ValueError: these are not as many rows as this host holds.
        """
        first, last = self.host_rows(batch_size)
        if len(local) != last - first:
            raise ValueError(f"{len(local)} rows; this host holds {first} to {last - 1}")

        def read(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            return local[start - first : stop - first]

        shape = (batch_size, *local.shape[1:])
        return jax.make_array_from_callback(shape, self.sharding(("batch", None)), read)

    def put_whole(self, whole: np.ndarray) -> jax.Array:
        """All rows, the same on every host -> one global array over the batch axes.

        Args:
          whole: [B, L]; of models side by side [E, B, L].
        """
        sharding = self.sharding(("expert", "batch", None)[-whole.ndim :])
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    def param_shardings(self, axes_tree: Any, abstract: Any) -> Any:
        """Shardings for a tree of parameters.

        Args:
          axes_tree: a tuple of logical axes per parameter.
          abstract: the same tree with anything that has `.shape`.

        Returns:
          The tree with a `NamedSharding` per parameter.

        Raises:
          ConfigError: a dimension does not divide by its mesh axes.
        """
        mesh = self.mesh

        def one(path: Any, axes: tuple[str, ...], array: Any) -> NamedSharding:
            spec = self.spec(axes)
            for size, axis, names in zip(array.shape, axes, spec, strict=True):
                names = (names,) if isinstance(names, str) else (names or ())
                parts = math.prod(mesh.shape[n] for n in names)
                if size % parts:
                    raise ConfigError(
                        f"PjitPartitioner: {jax.tree_util.keystr(path)} has {axis}={size}, "
                        f"which {'x'.join(names)}={parts} does not divide"
                    )
            return NamedSharding(mesh, spec)

        is_axes = lambda x: isinstance(x, tuple)  # noqa: E731
        return jax.tree_util.tree_map_with_path(one, axes_tree, abstract, is_leaf=is_axes)

    @contextlib.contextmanager
    def activate(self) -> Iterator[None]:
        """While a function is traced inside, `constrain` pins activations to this mesh."""
        token = _ACTIVE.set(self)
        try:
            yield
        finally:
            _ACTIVE.reset(token)


ModelBasedPjitPartitioner = PjitPartitioner  # the name in T5X's pretraining files


_ACTIVE: contextvars.ContextVar[PjitPartitioner | None] = contextvars.ContextVar(
    "active_partitioner", default=None
)


def active_partitioner() -> PjitPartitioner | None:
    """The mesh that is being traced for; None outside of `activate`."""
    return _ACTIVE.get()


def constrain(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Pins the layout of an activation to the active mesh; the identity where none is active."""
    partitioner = _ACTIVE.get()
    if partitioner is None:
        return x
    # Activations keep `embed` whole: `batch` comes first and has taken the `fsdp` axis.
    return jax.lax.with_sharding_constraint(x, partitioner.sharding(axes))


def gather(param: jax.Array, axes: Sequence[str | None], is_looked_up: bool = False) -> jax.Array:
    """All-gathers a parameter over the mesh axes that split the batch; `model` still splits it.

    Asked for explicitly, because the compiler would otherwise feed a product with one part after
    the other and rewrite its result each time. The gradient goes straight back into parts.

    Args:
      param: parameter in the dtype in which it is to travel.
      axes: its logical axes.
      is_looked_up: its rows are picked by the batch. Each device then adds up its own rows'
        gradient before the parts are exchanged; all activations would travel otherwise.
    """
    partitioner = _ACTIVE.get()
    if partitioner is None:
        return param
    split, whole = partitioner.spec(axes), partitioner.gathered_spec(axes)
    mesh = partitioner.mesh
    gradient = (whole, split) if is_looked_up else (split,)
    return _gather(
        NamedSharding(mesh, whole), tuple(NamedSharding(mesh, spec) for spec in gradient), param
    )


def _names(entry: Any) -> set[str]:
    """Mesh axes of one entry of a PartitionSpec."""
    return {entry} if isinstance(entry, str) else set(entry or ())


def _entry(target: Any) -> Any:
    """A rule's mesh axes as an entry of a PartitionSpec, which has no tuples of one or none."""
    if target is None or isinstance(target, str):
        return target
    return tuple(target) if len(target) > 1 else (target[0] if target else None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(
    whole: NamedSharding, gradient: tuple[NamedSharding, ...], param: jax.Array
) -> jax.Array:
    del gradient
    return jax.lax.with_sharding_constraint(param, whole)


def _gather_fwd(whole: NamedSharding, gradient: tuple[NamedSharding, ...], param: jax.Array):
    return _gather(whole, gradient, param), None


def _gather_bwd(
    whole: NamedSharding, gradient: tuple[NamedSharding, ...], _: None, grad: jax.Array
):
    del whole
    for sharding in gradient:
        grad = jax.lax.with_sharding_constraint(grad, sharding)
    return (grad,)


_gather.defvjp(_gather_fwd, _gather_bwd)
