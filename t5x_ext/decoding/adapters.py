"""Several adapters over one base: which of them each row of a batch uses."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext import bounds
from t5x_ext.errors import ConfigError
from t5x_ext.models.parameters import Params
from t5x_ext.partitioning import PjitPartitioner

Adapter = str | None | Sequence[str | None]


def gather_by_slot(stacked: Params, partitioner: PjitPartitioner) -> Params:
    """Adapters that were trained side by side, as networks with several of them hold them.

    Args:
      stacked: arrays [E, layers, ...], which the mesh's `expert` axis splits into S slots.
      partitioner: the mesh.

    Returns:
      Arrays [S, layers, E / S, ...], still in their slots; without the first axis where S is 1.
    """
    slots = partitioner.num_expert_slots

    def one(leaf: jax.Array) -> jax.Array:
        by_slot = leaf.reshape(slots, -1, *leaf.shape[1:])
        gathered = jnp.moveaxis(by_slot, 1, 2)
        return gathered if slots > 1 else gathered[0]

    return jax.jit(lambda tree: jax.tree.map(one, tree))(stacked)


def adapter_index(names: Sequence[str], adapter: Adapter, count: int) -> np.ndarray | None:
    """The adapter of each row.

    Args:
      names: of the model's adapters.
      adapter: see `calls.Calls`; None is none for any row.
      count: rows of the call.

    Returns:
      int32 [count], see `models.adapter_rows`; None if the model has no adapters.

    Raises:
      ConfigError: there is no such adapter, or not one for each row.
    """
    if adapter is None or isinstance(adapter, str):
        adapter = [adapter] * count
    adapter = bounds.to_list("adapter", adapter, "a name, or a list of one for each prompt")
    if len(adapter) != count:
        raise ConfigError(f"adapter: {len(adapter)} for {count} prompts; allowed: one for each")
    index = np.array([adapter_number(names, name) for name in adapter], np.int32)
    return index if names else None


def adapter_number(names: Sequence[str], name: str | None, argument: str = "adapter") -> int:
    """The place of an adapter, from 1; 0 for none. `argument` names it in messages.

    Raises:
      ConfigError: there is no such adapter.
    """
    if name is None:
        return 0
    if not isinstance(name, str) or name not in names:
        allowed = ", ".join(map(repr, names)) or "None: the model has no adapters"
        raise ConfigError(f"{argument}: {name!r}; allowed: {allowed}")
    return list(names).index(name) + 1


def contrasted(
    names: Sequence[str], adapter: Adapter, amateur: str | None, count: int
) -> list[tuple[int, ...]]:
    """The adapters of expert and amateur, where one model is both.

    Args:
      names: of the model's adapters.
      adapter: the expert's, see `calls.Calls`.
      amateur: the amateur's name; None is the base alone.
      count: rows of the call.

    Raises:
      ConfigError: there is no such adapter, or a row has nothing to contrast.
    """
    index = adapter_index(names, adapter, count)
    if index is None:
        raise ConfigError(
            "amateur: the model has no adapters, so that expert and amateur are one; allowed: "
            "another model, or a model loaded with adapters"
        )
    other = adapter_number(names, amateur, "amateur")
    return [(int(one), other) for one in index]
