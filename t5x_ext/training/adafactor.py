"""Adafactor (Shazeer & Stern 2018) with T5X's factoring by logical axes.

T5X's behaviour, restated: a parameter with a `layers` axis is a stack of parameters, so scales
and clipping are per layer; its other axes are gathered into rows and columns by the rules. A
parameter without a stacked axis is factored over its two largest dimensions, if both have at
least `min_dim_size_to_factor` entries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_ext.errors import ConfigError
from t5x_ext.models.params import Params, path_name


def standard_logical_factor_rules() -> dict[str, str | None]:
    """Logical axis -> 'row', 'column', 'batch' (a stack of parameters) or None (unfactored)."""
    return {
        "vocab": "column",
        "embed": "row",
        "mlp": "column",
        "heads": "column",
        "kv": "column",
        "joined_kv": "column",
        "relpos_buckets": None,
        "layers": "batch",
        "expert": "batch",
    }


class Slot(NamedTuple):
    """Second moments of one parameter; unused ones are one zero (Orbax saves no empty arrays).

    Attributes:
      v_row: mean of squares over the columns.
      v_col: mean of squares over the rows.
      v: full second moment of an unfactored parameter.
      m: momentum, with `beta1`.
    """

    v_row: jax.Array
    v_col: jax.Array
    v: jax.Array
    m: jax.Array


class AdafactorState(NamedTuple):
    """`count` updates applied (int32 scalar) and a `Slot` per parameter."""

    count: jax.Array  # type: ignore[assignment]  # tuple has a method of this name
    slots: Any


class _Layout(NamedTuple):
    """Axes of one parameter: those that a mean runs over, and rows and columns if factored."""

    averaged: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def factored(self) -> bool:
        return bool(self.rows)


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Optimizer definition with T5X's names and defaults.

    Attributes:
      decay_rate: exponent c of the second moment's decay 1 - t^-c.
      step_offset: subtracted from the count, to restart the decay when fine-tuning.
      multiply_by_parameter_scale: scale the step by max(epsilon2, RMS(parameter)).
      factored: keep row and column means instead of full second moments.
      beta1: momentum; None for none.
      clipping_threshold: RMS of the update is clipped to this; None for no clipping.
      weight_decay_rate: share of the parameter taken off per step, times the learning rate to
        the power of `weight_decay_rate_lr_exponent` when that is set.
      weight_decay_rate_lr_exponent: see `weight_decay_rate`.
      min_dim_size_to_factor: smaller unstacked parameters keep full second moments.
      epsilon1: added to squared gradients.
      epsilon2: lower bound of the parameter scale.
      logical_factor_rules: see `standard_logical_factor_rules`; None applies them.
    """

    decay_rate: float = 0.8
    step_offset: int = 0
    multiply_by_parameter_scale: bool = True
    factored: bool = True
    beta1: float | None = None
    clipping_threshold: float | None = 1.0
    weight_decay_rate: float | None = None
    weight_decay_rate_lr_exponent: float | None = None
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    logical_factor_rules: Mapping[str, str | None] | None = None

    def build(self, axes: Params) -> optax.GradientTransformationExtraArgs:
        """The transformation; `update` takes `learning_rate` (float32 scalar) by keyword.

        Args:
          axes: logical axes of every parameter (`params.param_axes`).
        """
        rules = dict(self.logical_factor_rules or standard_logical_factor_rules())

        def init(model_params: Params) -> AdafactorState:
            def slot(path: Any, param: jax.Array, param_axes: tuple[str, ...]) -> Slot:
                return self._init_slot(param, self._layout(path, param.shape, param_axes, rules))

            slots = jax.tree_util.tree_map_with_path(slot, model_params, axes)
            return AdafactorState(jnp.zeros((), jnp.int32), slots)

        def update(
            grads: Params,
            state: AdafactorState,
            model_params: Params,
            *,
            learning_rate: jax.Array,
            **unused: Any,
        ) -> tuple[Params, AdafactorState]:
            del unused
            # A fine-tuning run counts from 0 again: before the offset the decay stays at step 1.
            step = jnp.maximum(state.count - self.step_offset, 0).astype(jnp.float32) + 1.0
            decay = 1.0 - step ** (-self.decay_rate)

            def one(path: Any, grad: Any, param: Any, slot: Slot, param_axes: Any) -> Any:
                layout = self._layout(path, param.shape, param_axes, rules)
                return self._update_one(grad, param, slot, layout, decay, learning_rate)

            pairs = jax.tree_util.tree_map_with_path(one, grads, model_params, state.slots, axes)
            is_pair = lambda x: isinstance(x, tuple) and not isinstance(x, Slot)  # noqa: E731
            updates = jax.tree.map(lambda pair: pair[0], pairs, is_leaf=is_pair)
            slots = jax.tree.map(lambda pair: pair[1], pairs, is_leaf=is_pair)
            return updates, AdafactorState(state.count + 1, slots)

        return optax.GradientTransformationExtraArgs(init, update)

    def _layout(
        self, path: Any, shape: tuple[int, ...], axes: tuple[str, ...], rules: Mapping[str, Any]
    ) -> _Layout:
        for axis in axes:
            if axis not in rules:
                raise ConfigError(
                    f"logical_factor_rules: no rule for axis {axis!r} of {path_name(path)}; "
                    f"known: {', '.join(rules)}"
                )
        kinds = [rules[axis] for axis in axes]
        stacked = tuple(i for i, kind in enumerate(kinds) if kind == "batch")
        averaged = tuple(i for i in range(len(shape)) if i not in stacked)
        if not self.factored:
            return _Layout(tuple(range(len(shape))), (), ())
        if not stacked and len(shape) <= 2:
            order = np.argsort(shape)
            if len(shape) < 2 or shape[order[-2]] < self.min_dim_size_to_factor:
                return _Layout(averaged, (), ())
            return _Layout(averaged, (int(order[-2]),), (int(order[-1]),))
        rows = tuple(i for i, kind in enumerate(kinds) if kind == "row")
        columns = tuple(i for i, kind in enumerate(kinds) if kind == "column")
        return _Layout(averaged, rows, columns) if rows and columns else _Layout(averaged, (), ())

    def _init_slot(self, param: jax.Array, layout: _Layout) -> Slot:
        def mean_shape(reduced: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(n for i, n in enumerate(param.shape) if i not in reduced)

        empty = jnp.zeros((1,), jnp.float32)
        v_row = jnp.zeros(mean_shape(layout.columns), jnp.float32) if layout.factored else empty
        v_col = jnp.zeros(mean_shape(layout.rows), jnp.float32) if layout.factored else empty
        v = empty if layout.factored else jnp.zeros(param.shape, jnp.float32)
        m = empty if self.beta1 is None else jnp.zeros(param.shape, jnp.float32)
        return Slot(v_row, v_col, v, m)

    def _update_one(
        self,
        grad: jax.Array,
        param: jax.Array,
        slot: Slot,
        layout: _Layout,
        decay: jax.Array,
        learning_rate: jax.Array,
    ) -> tuple[jax.Array, Slot]:
        """One parameter's additive update and new slot."""
        grad = grad.astype(jnp.float32)
        square = jnp.square(grad) + self.epsilon1
        if layout.factored:
            rows, columns = layout.rows, layout.columns
            v_row = decay * slot.v_row + (1.0 - decay) * square.mean(columns)
            v_col = decay * slot.v_col + (1.0 - decay) * square.mean(rows)
            slot = slot._replace(v_row=v_row, v_col=v_col)
            full_row = jnp.expand_dims(v_row, columns)
            row_mean = full_row.mean(rows, keepdims=True)
            update = grad * (full_row / row_mean) ** -0.5 * jnp.expand_dims(v_col, rows) ** -0.5
        else:
            slot = slot._replace(v=decay * slot.v + (1.0 - decay) * square)
            update = grad * slot.v**-0.5
        if self.clipping_threshold is not None:
            rms = jnp.sqrt(jnp.square(update).mean(layout.averaged, keepdims=True))
            update = update / jnp.maximum(1.0, rms / self.clipping_threshold)
        scale = learning_rate
        if self.multiply_by_parameter_scale:
            rms = jnp.sqrt(jnp.square(param).mean(layout.averaged, keepdims=True))
            scale = scale * jnp.maximum(rms, self.epsilon2)
        update = scale * update
        if self.beta1 is not None:
            update = self.beta1 * slot.m + (1.0 - self.beta1) * update
            slot = slot._replace(m=update)
        update = -update
        exponent = self.weight_decay_rate_lr_exponent
        if self.weight_decay_rate is not None or exponent is not None:
            rate = 1.0 if self.weight_decay_rate is None else self.weight_decay_rate
            update = update - rate * learning_rate ** (exponent or 0.0) * param
        return update, slot
