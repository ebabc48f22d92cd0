"""Adafactor (Shazeer & Stern 2018) as T5X has it.

A parameter with a `layers` axis is a stack of parameters: scales, clipping and factoring are each
layer's own, as in a T5X network that writes its layers out. A matrix keeps means over its rows and
columns instead of full second moments if both dimensions have at least `min_dim_size_to_factor`
entries; a layer with more than two axes is factored by the rules for its logical axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from t5x_ext import bounds
from t5x_ext.errors import ConfigError
from t5x_ext.models.parameters import Params, path_name
from t5x_ext.training.hparam_map import HParamMap, given_values, value_for

__all__ = ["Adafactor", "AdafactorState", "HParamMap", "Slot", "standard_logical_factor_rules"]


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


class _Factoring(NamedTuple):
    """Axes of one parameter: those that a mean runs over, and rows and columns if factored."""

    averaged: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def factored(self) -> bool:
        return bool(self.rows)


class _Settings(NamedTuple):
    """What may differ from parameter to parameter."""

    multiply_by_parameter_scale: bool
    clipping_threshold: float | None
    weight_decay_rate: float | None


def _check_from_zero(field: str, value: Any) -> None:
    bounds.check_real(field, value, 0.0)


_CHECKS_UNLESS_NONE: dict[str, Callable[[str, Any], None]] = {
    "beta1": bounds.check_share,  # at 1, momentum would take nothing from an update
    "clipping_threshold": bounds.check_positive,  # at 0, as at 0 of the next, nothing would move
    "max_parameter_scale": bounds.check_positive,
    "global_norm_clip_threshold": _check_from_zero,  # 0 is none, as in T5X
    "weight_decay_rate": _check_from_zero,
    "weight_decay_rate_lr_exponent": _check_from_zero,
}


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Optimizer definition with T5X's names and defaults.

    Attributes:
      decay_rate: exponent c of the second moment's decay 1 - t^-c; t counts the updates that the
        moments have seen.
      step_offset: training step at which t starts from 1 again: that of the initial checkpoint,
        when fine-tuning.
      multiply_by_parameter_scale: scale the step by max(epsilon2, RMS(parameter)); or an
        `HParamMap`.
      factored: keep row and column means instead of full second moments.
      beta1: momentum; None for none.
      clipping_threshold: RMS of the update is clipped to this; None for no clipping; or an
        `HParamMap`.
      weight_decay_rate: share of the parameter taken off per step, times the learning rate to
        the power of `weight_decay_rate_lr_exponent` when that is set; or an `HParamMap`.
      weight_decay_rate_lr_exponent: see `weight_decay_rate`.
      min_dim_size_to_factor: smaller matrices keep full second moments.
      epsilon1: added to squared gradients.
      epsilon2: lower bound of the parameter scale.
      logical_factor_rules: see `standard_logical_factor_rules`; None applies them.
      dtype_momentum: dtype in which momentum is kept.
      global_norm_clip_threshold: gradients are scaled down to this global norm first; None and 0
        for not.
      max_parameter_scale: upper bound of the parameter scale; None for none.
      skip_nan_updates: numbers of a parameter or of its moments that would become NaN stay as they
        are.
      scanned_layers: follow T5X's rules for scanned layers (scalable_t5): a stack of matrices is
        factored by the rules whatever its size, and with `factored=False` scales and clipping are
        those of the whole stack.
    """

    decay_rate: float = 0.8
    step_offset: int = 0
    multiply_by_parameter_scale: bool | HParamMap = True
    factored: bool = True
    beta1: float | None = None
    clipping_threshold: float | HParamMap | None = 1.0
    weight_decay_rate: float | HParamMap | None = None
    weight_decay_rate_lr_exponent: float | None = None
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    logical_factor_rules: Mapping[str, str | None] | None = None
    dtype_momentum: Any = "float32"
    global_norm_clip_threshold: float | None = None
    max_parameter_scale: float | None = None
    skip_nan_updates: bool = False
    scanned_layers: bool = False

    def __post_init__(self) -> None:
        try:
            name = jnp.dtype(self.dtype_momentum).name
        except TypeError:
            name = repr(self.dtype_momentum)
        if name not in ("float32", "bfloat16"):
            raise ConfigError(f"Adafactor.dtype_momentum: {name}; allowed: float32, bfloat16")
        object.__setattr__(self, "dtype_momentum", name)
        for field in ("step_offset", "min_dim_size_to_factor"):
            bounds.check_int(f"Adafactor.{field}", getattr(self, field), 0)
        for field in ("decay_rate", "epsilon1", "epsilon2"):
            bounds.check_real(f"Adafactor.{field}", getattr(self, field), 0.0)
        for field, check in _CHECKS_UNLESS_NONE.items():
            for value in given_values(getattr(self, field)):
                check(f"Adafactor.{field}", value)

    def build(self, axes: Params) -> optax.GradientTransformationExtraArgs:
        """The transformation; `update` takes `learning_rate` (float32 scalar) by keyword.

        It takes `step` too, the training step (int32 scalar), which `step_offset` refers to;
        without it the updates of this state count.

        Args:
          axes: logical axes of every parameter (`parameters.param_axes`).
        """
        rules = dict(self.logical_factor_rules or standard_logical_factor_rules())

        def init(model_params: Params) -> AdafactorState:
            def slot(path: Any, param: jax.Array, param_axes: tuple[str, ...]) -> Slot:
                return self._init_slot(param, self._factoring(path, param.shape, param_axes, rules))

            slots = jax.tree_util.tree_map_with_path(slot, model_params, axes)
            return AdafactorState(jnp.zeros((), jnp.int32), slots)

        def update(
            grads: Params,
            state: AdafactorState,
            model_params: Params,
            *,
            learning_rate: jax.Array,
            step: jax.Array | None = None,
            **unused: Any,
        ) -> tuple[Params, AdafactorState]:
            del unused
            age = self._age(state.count, state.count if step is None else step)
            decay = 1.0 - (age.astype(jnp.float32) + 1.0) ** (-self.decay_rate)
            if self.global_norm_clip_threshold:
                grads = _clip_by_global_norm(grads, self.global_norm_clip_threshold)

            def one(path: Any, grad: Any, param: Any, slot: Slot, param_axes: Any) -> Any:
                factoring = self._factoring(path, param.shape, param_axes, rules)
                settings = self._settings(path, param.shape)
                return self._update_one(
                    grad, param, slot, factoring, settings, decay, learning_rate
                )

            pairs = jax.tree_util.tree_map_with_path(one, grads, model_params, state.slots, axes)
            is_pair = lambda x: isinstance(x, tuple) and not isinstance(x, Slot)  # noqa: E731
            updates = jax.tree.map(lambda pair: pair[0], pairs, is_leaf=is_pair)
            slots = jax.tree.map(lambda pair: pair[1], pairs, is_leaf=is_pair)
            return updates, AdafactorState(state.count + 1, slots)

        return optax.GradientTransformationExtraArgs(init, update)

    def _age(self, count: jax.Array, step: jax.Array) -> jax.Array:
        """Updates that the second moments have seen, before this one: int32 scalar.

        T5X restores the moments with the parameters and counts `step - step_offset`. A run that
        starts with empty moments has seen `count` updates, which is the same number where
        `step_offset` is the step it started from.
        """
        since_offset = step - self.step_offset
        return jnp.where(since_offset >= 0, jnp.minimum(count, since_offset), count)

    def _settings(self, path: Any, shape: tuple[int, ...]) -> _Settings:
        name = path_name(path)
        num_layers = shape[0] if "/layers/" in name else 0
        return _Settings(
            value_for(self.multiply_by_parameter_scale, name, num_layers),
            value_for(self.clipping_threshold, name, num_layers),
            value_for(self.weight_decay_rate, name, num_layers),
        )

    def _factoring(
        self, path: Any, shape: tuple[int, ...], axes: tuple[str, ...], rules: Mapping[str, Any]
    ) -> _Factoring:
        for axis in axes:
            if axis not in rules:
                raise ConfigError(
                    f"logical_factor_rules: no rule for axis {axis!r} of {path_name(path)}; "
                    f"known: {', '.join(rules)}"
                )
        kinds = [rules[axis] for axis in axes]
        stacked = tuple(i for i, kind in enumerate(kinds) if kind == "batch")
        of_layer = tuple(i for i in range(len(shape)) if i not in stacked)
        if not self.factored:
            averaged = tuple(range(len(shape))) if self.scanned_layers else of_layer
            return _Factoring(averaged, (), ())
        if len(of_layer) <= 2 and not (stacked and self.scanned_layers):
            by_size = sorted(of_layer, key=lambda axis: shape[axis])
            if len(of_layer) < 2 or shape[by_size[0]] < self.min_dim_size_to_factor:
                return _Factoring(of_layer, (), ())
            return _Factoring(of_layer, (by_size[0],), (by_size[1],))
        rows = tuple(i for i, kind in enumerate(kinds) if kind == "row")
        columns = tuple(i for i, kind in enumerate(kinds) if kind == "column")
        if not (rows and columns):
            rows = columns = ()
        return _Factoring(of_layer, rows, columns)

    def _init_slot(self, param: jax.Array, factoring: _Factoring) -> Slot:
        def mean_shape(reduced: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(n for i, n in enumerate(param.shape) if i not in reduced)

        empty = jnp.zeros((1,), jnp.float32)
        v_row = v_col = empty
        v = jnp.zeros(param.shape, jnp.float32)
        if factoring.factored:
            v_row = jnp.zeros(mean_shape(factoring.columns), jnp.float32)
            v_col, v = jnp.zeros(mean_shape(factoring.rows), jnp.float32), empty
        m = empty if self.beta1 is None else jnp.zeros(param.shape, self.dtype_momentum)
        return Slot(v_row, v_col, v, m)

    def _update_one(
        self,
        grad: jax.Array,
        param: jax.Array,
        slot: Slot,
        factoring: _Factoring,
        settings: _Settings,
        decay: jax.Array,
        learning_rate: jax.Array,
    ) -> tuple[jax.Array, Slot]:
        """One parameter's additive update and new slot."""
        grad = grad.astype(jnp.float32)
        update, new = self._scale_by_moments(grad, slot, factoring, decay)
        if settings.clipping_threshold is not None:
            rms = _rms(update, factoring.averaged)
            update = update / jnp.maximum(1.0, rms / settings.clipping_threshold)
        scale = learning_rate
        if settings.multiply_by_parameter_scale:
            size = jnp.maximum(_rms(param, factoring.averaged), self.epsilon2)
            if self.max_parameter_scale is not None:
                size = jnp.minimum(size, self.max_parameter_scale)
            scale = scale * size
        update = scale * update
        if self.beta1 is not None:
            update = self.beta1 * slot.m.astype(jnp.float32) + (1.0 - self.beta1) * update
            new = new._replace(m=update.astype(slot.m.dtype))
        update = -update
        rate: Any = settings.weight_decay_rate
        exponent = self.weight_decay_rate_lr_exponent
        if exponent:
            rate = (1.0 if rate is None else rate) * learning_rate**exponent
        if rate is not None:
            update = update - rate * param
        if self.skip_nan_updates:
            update = jnp.where(jnp.isnan(param + update), 0.0, update)
            new = jax.tree.map(lambda n, old: jnp.where(jnp.isnan(n), old, n), new, slot)
        return update, new

    def _scale_by_moments(
        self, grad: jax.Array, slot: Slot, factoring: _Factoring, decay: jax.Array
    ) -> tuple[jax.Array, Slot]:
        """The gradient over the root of its second moment, and the slot with the new moments."""
        square = jnp.square(grad) + self.epsilon1
        if not factoring.factored:
            slot = slot._replace(v=decay * slot.v + (1.0 - decay) * square)
            return grad * slot.v**-0.5, slot
        rows, columns = factoring.rows, factoring.columns
        v_row = decay * slot.v_row + (1.0 - decay) * square.mean(columns)
        v_col = decay * slot.v_col + (1.0 - decay) * square.mean(rows)
        full_row = jnp.expand_dims(v_row, columns)
        row_mean = full_row.mean(rows, keepdims=True)
        update = grad * (full_row / row_mean) ** -0.5 * jnp.expand_dims(v_col, rows) ** -0.5
        return update, slot._replace(v_row=v_row, v_col=v_col)


def _rms(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Root of the mean of squares over some axes, which stay with length 1."""
    return jnp.sqrt(jnp.square(x).mean(axes, keepdims=True))


def _clip_by_global_norm(grads: Params, threshold: float) -> Params:
    """Scales all gradients down to a common norm."""
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(grad)) for grad in jax.tree.leaves(grads)))
    return jax.tree.map(lambda grad: grad * jnp.minimum(1.0, threshold / norm), grads)
