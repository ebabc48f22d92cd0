"""Which of transformers' tensors make up which of our parameters.

transformers keeps one tensor per layer, linear weights as [out, in]; we keep the layers of a
stack together, and kernels as [in, out]:

    encoder.block.<i>.layer.0.SelfAttention.q.weight  [num_heads * d_kv, d_model]  for every i
    encoder/layers/attention/query/kernel             [num_layers, d_model, num_heads * d_kv]

Some families keep query, key and value in one tensor; each of ours is then some of its rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from t5x_ext.models import network, parameters
from t5x_ext.models.config import ModelConfig
from t5x_ext.models.parameters import ParamSpec


@dataclasses.dataclass(frozen=True)
class RowRange:
    """Some rows of a tensor: the same ones of each of its groups of rows.

    Attributes:
      groups: G, equal parts of the tensor.
      span: rows of each.
      start: the first one taken of each.
      stop: the one after the last.
    """

    groups: int
    span: int
    start: int
    stop: int

    def numbers(self) -> np.ndarray:
        """The rows' places in the tensor, int64 [groups * (stop - start)], ascending."""
        firsts = np.arange(self.groups)[:, None] * self.span
        return (firsts + np.arange(self.start, self.stop)).ravel()


def fused_qkv(num_heads: int, num_kv_heads: int, head_dim: int, groups: int) -> dict[str, RowRange]:
    """Rows of query, key and value in one tensor whose groups are [queries; keys; values] each."""
    queries, keys = num_heads * head_dim // groups, num_kv_heads * head_dim // groups
    span = queries + 2 * keys
    return {
        "query": RowRange(groups, span, 0, queries),
        "key": RowRange(groups, span, queries, queries + keys),
        "value": RowRange(groups, span, queries + keys, span),
    }


@dataclasses.dataclass(frozen=True)
class Name:
    """What transformers calls a parameter of ours.

    Attributes:
      template: the tensor's name; '{}' is the number of the layer.
      rows: the rows of it that are ours; None for all.
    """

    template: str
    rows: RowRange | None = None


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one of our parameters lies in transformers' layout.

    Attributes:
      names: of transformers' tensors: one per layer, or one.
      shape: of each of them.
      fields: what config.json calls the lengths in `shape`.
      stacked: whether ours has a leading layers axis.
      transposed: whether ours has the two axes of a tensor the other way round.
      rows: see `Name`.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    fields: tuple[str, ...]
    stacked: bool
    transposed: bool
    rows: RowRange | None = None

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Of what one tensor gives to our parameter, as our parameter has it."""
        shape = self.shape
        if self.rows is not None:
            shape = (self.rows.groups * (self.rows.stop - self.rows.start), *shape[1:])
        return shape[::-1] if self.transposed else shape


def specs_by_name(cfg: ModelConfig) -> dict[str, ParamSpec]:
    """The declaration of every parameter of a model."""
    leaves = jax.tree_util.tree_leaves_with_path(
        network.Transformer(cfg).specs, is_leaf=lambda x: isinstance(x, ParamSpec)
    )
    return {parameters.path_name(path): spec for path, spec in leaves}


def deepest_stack(cfg: ModelConfig) -> int:
    """Layers of the deepest stack."""
    return max(spec.shape[0] for spec in specs_by_name(cfg).values() if spec.axes[0] == "layers")


def place_all(
    cfg: ModelConfig, names: Mapping[str, Name], fields: Mapping[str, str]
) -> dict[str, Placement]:
    """A placement for every parameter of a model, by our name.

    Args:
        cfg: The model.
        names: transformers' name of each parameter, and perhaps of others.
        fields: What config.json calls the lengths of our logical axes.
    """
    return {
        ours: _place(spec, names[ours], fields, is_table=ours == "token_embedder/embedding")
        for ours, spec in specs_by_name(cfg).items()
    }


def _place(spec: ParamSpec, name: Name, fields: Mapping[str, str], is_table: bool) -> Placement:
    stacked = spec.axes[0] == "layers"
    shape, axes = (spec.shape[1:], spec.axes[1:]) if stacked else (spec.shape, spec.axes)
    transposed = len(shape) == 2 and not is_table
    if transposed:
        shape, axes = shape[::-1], axes[::-1]
    lengths = [fields[str(axis)] for axis in axes]
    if name.rows is not None:
        shape = (name.rows.groups * name.rows.span, *shape[1:])
        lengths[0] = "rows of query, key and value"
    layers = range(spec.shape[0]) if stacked else range(1)
    tensors = tuple(name.template.format(layer) for layer in layers)
    return Placement(tensors, shape, tuple(lengths), stacked, transposed, name.rows)


def describe_mismatch(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Placement]
) -> str | None:
    """Compares the tensors of a file with those of a model, by name and shape.

    Args:
        found: Shape of every tensor of transformers' in the files.
        wanted: From `place_all`.

    Returns:
        What is missing, unknown or of another shape, in one line; None if all is well.
    """
    expected = {name: placement for placement in wanted.values() for name in placement.names}

    def wrong_shape(name: str, placement: Placement) -> str:
        needed = ", ".join(
            f"{field}={size}" for field, size in zip(placement.fields, placement.shape, strict=True)
        )
        return f"{name} is {list(found[name])}, config.json needs [{needed}]"

    def shorten(names: list[str], most: int) -> str:
        more = f" and {len(names) - most} more" if len(names) > most else ""
        return ", ".join(names[:most]) + more

    problems = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "of another shape": [
            wrong_shape(name, placement)
            for name, placement in expected.items()
            if name in found and found[name] != placement.shape
        ],
    }
    most = {"missing": 4, "unknown": 4, "of another shape": 2}  # named; the rest are counted
    listed = [
        f"{len(names)} {kind}: {shorten(names, most[kind])}"
        for kind, names in problems.items()
        if names
    ]
    return "; ".join(listed) or None
