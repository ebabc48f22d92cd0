"""Where each device of a machine goes in a mesh.

A TPU slice is a grid of chips with links between neighbours, so a mesh axis is fast where it runs
along the grid. JAX's `mesh_utils` finds such layouts, innermost axis first; several slices are
joined by the data centre's network, which the outer axes take. CPUs and GPUs have no grid: they
stay in JAX's order, processes one after the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from t5x_ext.errors import ConfigError


def arrange(
    devices: Sequence[Any], shape: Sequence[int], submesh: Sequence[int] | None = None
) -> np.ndarray:
    """Lays devices out as a mesh.

    Args:
      devices: as many as the product of `shape`; they may be described only.
      shape: size of each axis. Only the outer ones, all but the last, may span slices.
      submesh: T5X's `model_parallel_submesh`, (x, y, z, core): the tile of the grid that each group
        along the last axis takes; its product is that axis. Without a grid only the product counts.

    Returns:
      Devices, an object array of `shape`.

    Raises:
      ConfigError: the tile does not divide the grid, or the last axis would span slices.
    """
    if not hasattr(devices[0], "coords"):
        return mesh_utils.create_device_mesh(shape, devices)
    slices = _slices(devices)
    across = _across_slices(shape, len(slices))
    within = tuple(size // count for size, count in zip(shape, across, strict=True))
    grids = np.empty(len(slices), object)
    for number, one in enumerate(slices):
        grids[number] = _arrange_slice(one, within, submesh)
    # [slices along each axis ...] of [devices along each axis ...] -> one array
    return np.block(np.reshape(grids, across).tolist()) if len(slices) > 1 else grids[0]


def _slices(devices: Sequence[Any]) -> list[list[Any]]:
    """TPU devices by slice; those of one slice alone have no number."""

    def number(device: Any) -> int:
        return getattr(device, "slice_index", None) or 0

    return [list(one) for _, one in itertools.groupby(sorted(devices, key=number), number)]


def _across_slices(shape: Sequence[int], num_slices: int) -> tuple[int, ...]:
    """How many slices each axis spans: the outermost as many as divide it, then the next."""
    left, across = num_slices, []
    for size in shape[:-1]:
        across.append(math.gcd(size, left))
        left //= across[-1]
    if left > 1:
        raise ConfigError(
            f"PjitPartitioner: {num_slices} slices do not divide expert x data x fsdp = "
            f"{math.prod(shape[:-1])}; allowed: a multiple, so that `model` stays within a slice"
        )
    return (*across, 1)


def _arrange_slice(
    devices: list[Any], shape: tuple[int, ...], submesh: Sequence[int] | None
) -> np.ndarray:
    """Lays the devices of one slice out."""
    grid = _grid(devices)
    if grid is None:
        return np.asarray(devices).reshape(shape)
    if submesh is not None and math.prod(submesh) == shape[-1] > 1:
        return _tile(grid, submesh).reshape(shape)
    made = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return _follow_links(made)


def _grid(devices: Sequence[Any]) -> np.ndarray | None:
    """Devices by their coordinates [x, y, z, core]; None if they fill no box."""
    places = np.array([(*device.coords, device.core_on_chip) for device in devices])
    places -= places.min(axis=0)
    if np.prod(places.max(axis=0) + 1) != len(devices):
        return None  # some chips of a slice
    grid = np.empty(places.max(axis=0) + 1, object)
    for device, place in zip(devices, places, strict=True):
        grid[tuple(place)] = device
    return grid


def _tile(grid: np.ndarray, submesh: Sequence[int]) -> np.ndarray:
    """Cuts the grid into tiles: [tiles, devices of a tile], each from neighbour to neighbour."""
    if len(submesh) != grid.ndim or any(g % m for g, m in zip(grid.shape, submesh, strict=False)):
        raise ConfigError(
            f"PjitPartitioner.model_parallel_submesh: {tuple(submesh)}; allowed: (x, y, z, core), "
            f"each a divisor of the machine's {grid.shape}"
        )
    pairs = [(g // m, m) for g, m in zip(grid.shape, submesh, strict=True)]
    cut = grid.reshape([size for pair in pairs for size in pair])
    # (tiles along x, x within, tiles along y, ...) -> (tiles along x, y, ..., x, y, ... within)
    cut = cut.transpose([*range(0, 2 * grid.ndim, 2), *range(1, 2 * grid.ndim, 2)])
    tiles = cut.reshape([-1, *submesh])
    order = _snake(np.arange(len(tiles)).reshape([count for count, _ in pairs]))
    return np.stack([_snake(tiles[number]) for number in order])


def _snake(box: np.ndarray) -> np.ndarray:
    """A box's items in an order in which each is a neighbour of the one before.

    [[0, 1], [2, 3]] -> [0, 1, 3, 2]
    """
    if box.ndim == 1:
        return box
    lines = [_snake(line) for line in box]
    return np.concatenate([line[:: 1 - 2 * (i % 2)] for i, line in enumerate(lines)])


def _follow_links(mesh: np.ndarray) -> np.ndarray:
    """Reorders the last axis so that each device is linked to the one before.

    `mesh_utils` goes through a plane row by row and jumps back at the end of each.
    """
    groups = mesh.reshape(-1, mesh.shape[-1])
    for number, group in enumerate(groups):
        box = _grid(list(group))
        if box is not None and not all(map(_are_linked, group, group[1:])):
            groups[number] = _snake(box)
    return groups.reshape(mesh.shape)


def _are_linked(one: Any, other: Any) -> bool:
    """Whether two chips are neighbours in the grid, or cores of one chip."""
    return sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)) <= 1
