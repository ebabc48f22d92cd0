"""Meshes follow the machine: on described TPU slices, groups along an axis are linked chips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import compilers
import jax
import numpy as np
import pytest

from t5x_ext.errors import ConfigError
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.planning import compiling
from t5x_ext.planning.devices import parse_topology


@pytest.fixture
def describe(monkeypatch):
    compilers.load_libtpu()
    for variable, value in compiling.TPU_ENVIRONMENT.items():  # put back after the test
        monkeypatch.setenv(variable, value)

    def describe(name: str, num_slices: int = 1) -> list[Any]:
        if num_slices == 1:
            return compiling.describe_devices(parse_topology(name))
        from jax.experimental import topologies

        slices = topologies.get_topology_desc(
            platform="tpu", topology_name=name, num_slices=num_slices
        )
        return list(slices.devices)

    return describe


def links(one: Any, other: Any) -> int:
    """Links of the grid between two chips of a slice."""
    return sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True))


def groups_along(partitioner: PjitPartitioner, axis: str) -> np.ndarray:
    """The devices of each group that exchanges along an axis: [groups, size]."""
    mesh = partitioner.mesh
    moved = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), -1)
    return moved.reshape(-1, moved.shape[-1])


def box(group: Sequence[Any]) -> tuple[int, ...]:
    """Sides of the smallest box of the grid that holds a group."""
    coords = np.array([device.coords for device in group])
    return tuple(coords.max(axis=0) - coords.min(axis=0) + 1)


@pytest.mark.parametrize(
    ("topology", "axes"),
    [
        ("v5e:4x4", dict(model=16)),
        ("v5e:4x4", dict(fsdp=4, model=4)),
        ("v5e:4x4", dict(data=2, fsdp=4, model=2)),
        ("v5e:4x4", dict(fsdp=2, model=8)),
        ("v5e:2x4", dict(fsdp=2, model=4)),
        ("v5e:8x8", dict(fsdp=8, model=8)),
        ("v5e:16x16", dict(expert=16, data=1, fsdp=4, model=4)),
        ("v6e:4x8", dict(fsdp=4, model=8)),
        ("v4:2x2x4", dict(fsdp=4, model=4)),
        ("v4:2x2x4", dict(fsdp=2, model=8)),
        ("v5p:4x4x4", dict(fsdp=16, model=4)),
        ("v5p:2x2x4", dict(data=2, fsdp=4, model=2)),
    ],
)
def test_neighbours_along_model_are_linked_and_fill_a_box(describe, topology, axes) -> None:
    devices = describe(topology)
    partitioner = PjitPartitioner(**axes, devices=devices)
    groups = groups_along(partitioner, "model")
    for group in groups:
        assert all(links(*pair) == 1 for pair in itertools.pairwise(group))
        assert np.prod(box(group)) == len(group)
    assert {device.id for device in groups.flat} == {device.id for device in devices}


def test_fsdp_alone_goes_through_the_whole_slice_from_neighbour_to_neighbour(describe) -> None:
    (ring,) = groups_along(PjitPartitioner(fsdp=16, devices=describe("v5e:4x4")), "fsdp")
    assert all(links(*pair) == 1 for pair in itertools.pairwise([*ring, ring[0]]))


@pytest.mark.parametrize(
    ("topology", "submesh"),
    [
        ("v5e:4x4", (4, 1, 1, 1)),
        ("v5e:4x4", (1, 4, 1, 1)),
        ("v5e:4x4", (2, 2, 1, 1)),
        ("v5e:4x4", (2, 4, 1, 1)),
        ("v4:2x2x4", (2, 1, 2, 1)),
        ("v4:2x2x4", (1, 1, 4, 1)),
        ("v5p:4x4x4", (2, 2, 2, 1)),
    ],
)
def test_a_submesh_is_the_tile_of_the_grid_that_t5x_takes(describe, topology, submesh) -> None:
    partitioner = PjitPartitioner(model_parallel_submesh=submesh, devices=describe(topology))
    groups = groups_along(partitioner, "model")
    assert groups.shape[1] == np.prod(submesh)
    corners = set()
    for group in groups:
        assert box(group) == submesh[:3]
        assert all(links(*pair) == 1 for pair in itertools.pairwise(group))
        corner = np.min([device.coords for device in group], axis=0)
        assert not (corner % submesh[:3]).any()
        corners.add(tuple(corner))
    assert len(corners) == len(groups)


def test_a_submesh_that_does_not_divide_the_machine_is_refused(describe) -> None:
    devices = describe("v5e:4x4")
    for submesh in [(1, 1, 4, 1), (8, 1, 1, 1), (2, 2, 1)]:
        with pytest.raises(ConfigError, match=r"model_parallel_submesh: \(.*of the machine's"):
            _ = PjitPartitioner(model_parallel_submesh=submesh, devices=devices).mesh


@pytest.mark.parametrize(
    ("axes", "across"),
    [
        (dict(fsdp=8), "data"),
        (dict(fsdp=16), "fsdp"),
        (dict(fsdp=4, model=4), "fsdp"),
        (dict(fsdp=4, model=2), "data"),
        (dict(expert=4, data=1, fsdp=4), "expert"),
        (dict(data=2, model_parallel_submesh=(2, 4, 1, 1)), "data"),
    ],
)
def test_only_an_outer_axis_goes_between_slices(describe, axes, across) -> None:
    devices = describe("v5e:2x4", num_slices=2)
    partitioner = PjitPartitioner(**axes, devices=devices)
    for axis in partitioner.mesh.axis_names:
        slices = {len({d.slice_index for d in group}) for group in groups_along(partitioner, axis)}
        assert slices == ({2} if axis == across else {1})
    for group in groups_along(partitioner, "model"):
        assert all(links(*pair) == 1 for pair in itertools.pairwise(group))


def test_a_model_axis_that_would_span_slices_is_refused(describe) -> None:
    devices = describe("v5e:2x4", num_slices=2)
    with pytest.raises(ConfigError, match="2 slices do not divide expert x data x fsdp = 1"):
        _ = PjitPartitioner(model=16, devices=devices).mesh


def test_a_part_of_a_slice_is_laid_out_too(describe) -> None:
    devices = describe("v5e:4x4")
    mesh = PjitPartitioner(fsdp=3, devices=devices[:3]).mesh
    assert list(mesh.devices.flat) == devices[:3]


@pytest.mark.parametrize("axes", [dict(), dict(fsdp=4, model=2), dict(expert=2, data=2, model=2)])
def test_devices_without_a_grid_stay_in_order(axes) -> None:
    assert list(PjitPartitioner(**axes).mesh.devices.flat) == jax.devices()
