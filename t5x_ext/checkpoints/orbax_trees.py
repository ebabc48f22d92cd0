"""The arrays of an Orbax item directory, by name, whatever tree and devices it was saved from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from t5x_ext.checkpoints import tensorstores
from t5x_ext.checkpoints.damage import Damage, decoding
from t5x_ext.checkpoints.sources import LazyTensor

METADATA = "_METADATA"


def is_orbax(item: epath.Path) -> bool:
    """Whether a directory is an item that Orbax wrote with a description of its tree."""
    return (item / METADATA).is_file()


def names_in(item: epath.Path) -> list[str]:
    """Lists the arrays of an item by the keys on their path: `params/embed`, `opt_state/0/count`.

    Args:
        item: E.g. `checkpoint_100/state`. Empty nodes of its tree are left out.

    Raises:
        Damage: If the description is damaged or missing.
    """
    with decoding(f"{item.name}/{METADATA}"):
        leaves = _description(item).get("tree_metadata")
        if not leaves:
            raise Damage("its list of tensors is missing")
        return [
            "/".join(str(part["key"]) for part in leaf["key_metadata"])
            for leaf in leaves.values()
            if not leaf["value_metadata"].get("skip_deserialize")
        ]


def open_arrays(item: epath.Path, names: Iterable[str]) -> dict[str, LazyTensor]:
    """Opens arrays of an item without reading their values.

    Orbax's own reader wants devices like those that the item was saved from, or a target tree, and
    reads whole arrays; the format itself asks for neither.

    Args:
        item: E.g. `checkpoint_100/state`.
        names: Any of `names_in`.

    Raises:
        Damage: If an array is damaged or missing.
    """
    return tensorstores.open_arrays(
        item,
        {name: name.replace("/", ".") for name in names},
        ocdbt=(item / "manifest.ocdbt").exists(),
        zarr3=_description(item).get("use_zarr3", False),
    )


def describe_tree(names: Sequence[str]) -> str:
    """The description that Orbax keeps with arrays: the text of `_METADATA`.

    Args:
        names: Paths of the arrays in nested dicts, e.g. `params/embed`.
    """
    dict_key = 2  # Orbax's number for a key of a dict
    tree = {}
    for name in names:
        keys = name.split("/")
        tree[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": dict_key} for key in keys],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
    return json.dumps(
        {
            "tree_metadata": tree,
            "use_ocdbt": True,
            "use_zarr3": True,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
    )


def _description(item: epath.Path) -> dict[str, Any]:
    file = item / METADATA
    if not file.exists():
        raise Damage(f"{item.name}/{METADATA}: missing")
    with decoding(f"{item.name}/{METADATA}"):
        return json.loads(file.read_text())
