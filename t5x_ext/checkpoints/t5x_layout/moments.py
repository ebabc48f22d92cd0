"""The optimizer's part of an exported checkpoint: an Adafactor that has seen nothing yet.

T5X's training restores all of its state by default, and refuses a checkpoint that lacks an entry.
For each parameter its Adafactor keeps `v_row` and `v_col`, or `v` where it does not factor, and
`m`; what is not in use is one zero. Which is in use follows from shapes and axes, with the settings
of T5X's model files (no momentum, `standard_logical_factor_rules`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t5x_ext.checkpoints.t5x_layout.places import LAYER_AXIS, Place

_MIN_FACTORED = 128  # Adafactor.min_dim_size_to_factor
_ROW = "embed"
_UNFACTORED = "relpos_buckets"


def empty_moments(place: Place, axes: Sequence[str]) -> dict[str, np.ndarray]:
    """The entries of each part of a parameter, by T5X's names for them: float32 zeros.

    Args:
        place: Where the parameter is.
        axes: Logical axes of ours, among them `layers` where it has layers.
    """
    moments = {name: np.zeros(1, np.float32) for name in ("m", "v", "v_col", "v_row")}
    by_name = place.scanned or len(place.shape) > 2
    rows, columns = _by_name(place, axes) if by_name else _by_size(place.shape)
    if not (rows and columns):
        return moments | {"v": np.zeros(place.shape, np.float32)}
    return moments | {
        "v_row": np.zeros(np.delete(place.shape, columns), np.float32),
        "v_col": np.zeros(np.delete(place.shape, rows), np.float32),
    }


def _by_size(shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Of a matrix both axes are factored, the larger one as columns, if both are large enough."""
    order = np.argsort(shape)
    if len(shape) < 2 or shape[order[-2]] < _MIN_FACTORED:
        return [], []
    return [int(order[-2])], [int(order[-1])]


def _by_name(place: Place, axes: Sequence[str]) -> tuple[list[int], list[int]]:
    """All axes but that of the layers, as rows or columns by their names."""
    names = [name for name in axes if name != "layers"]
    if _UNFACTORED in names:
        return [], []
    if place.split_axis is not None:  # heads and head_dim
        names.insert(place.split_axis, names[place.split_axis])
    if place.scanned:
        names.insert(LAYER_AXIS, "layers")
    rows = [at for at, name in enumerate(names) if name == _ROW]
    columns = [at for at, name in enumerate(names) if name not in (_ROW, "layers")]
    return rows, columns
