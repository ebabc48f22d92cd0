"""Finds and names steps whose loss or gradient is not finite; they end the run or are left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_ext.errors import ConfigError
from t5x_ext.models.parameters import Params, path_name
from t5x_ext.training.trainer import StepEvent

_MAX_IDS = 32  # examples named in a message
_ADVICE = (
    "continue from the last checkpoint with a lower LEARNING_RATE, without these examples, or with "
    "SKIP_NONFINITE_STEPS=1"
)


class FiniteCheck:
    """Looks at the loss and the gradient of every step, after the next one has been started.

    The first that is not finite ends the run, before it is saved. Where the train step leaves such
    steps out (`Trainer.skip_nonfinite_steps`), more than that many in a row do.

    Attributes:
      skipped: steps left out since the run began.
    """

    def __init__(
        self, may_skip: int = 0, skipped: int = 0, say: Callable[[str], None] = print
    ) -> None:
        """Starts looking.

        Args:
          may_skip: steps in a row that may be left out; what the train step was made with.
          skipped: steps left out before the run was resumed.
          say: takes a line about each step that is left out.
        """
        self.skipped = skipped
        self._may_skip, self._say = may_skip, say
        self._in_a_row = 0
        self._unchecked: StepEvent | None = None

    def __call__(self, event: StepEvent) -> None:
        """Checks the step before: it has finished while this one was prepared."""
        self.check(event.state.params)
        self._unchecked = event._replace(state=None)  # type: ignore[arg-type]  # frees its memory

    def check(self, current: Params) -> None:
        """Checks the step seen last.

        Args:
          current: the newest parameters.

        Raises:
          ConfigError: names the step, its examples and the first bad tensor.
        """
        event, self._unchecked = self._unchecked, None
        if event is None:
            return
        values = {name: float(event.metrics[name]) for name in ("loss", "grad_norm")}
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        ids = event.info.ids
        more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
        what = f"step {event.step}: {bad[0]}, on examples {', '.join(ids[:_MAX_IDS])}{more}"
        if self._in_a_row > self._may_skip:
            allowed = f"SKIP_NONFINITE_STEPS allows {self._may_skip}"
            row = f", {self._in_a_row} steps in a row ({allowed})" if self._may_skip else ""
            raise ConfigError(
                f"{what}{row}; first bad tensor: {self._first_bad(event, current)}; nothing was "
                f"saved since; {_ADVICE}"
            )
        self.skipped += 1
        self._say(f"{what}; left out, {self._in_a_row} in a row (of {self._may_skip} allowed)")

    def _first_bad(self, event: StepEvent, current: Params) -> str:
        # Steps that are left out change no parameter: those there now are those of the bad step.
        # Otherwise a bad gradient has made all of them bad.
        name = first_nonfinite(current) if self._may_skip else None
        if name is not None:
            return f"parameter {name}"
        squares = np.asarray(event.metrics["grad_squares"])
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(current)]
        bad = np.flatnonzero(~np.isfinite(squares))
        if not len(bad):
            return "none, all gradients are finite"
        return f"gradient of {names[bad[0]]} ({len(bad)} of {len(names)} gradients are not finite)"


def check_params(params: Params, step: int) -> None:
    """Refuses parameters that are not to be saved.

    Raises:
      ConfigError: a parameter is not finite; names the first, in the order of their names.
    """
    name = first_nonfinite(params)
    if name is not None:
        raise ConfigError(
            f"step {step}: its update has made parameter {name} a number that is not finite; "
            "nothing was saved since; continue from the last checkpoint with a lower LEARNING_RATE"
        )


def first_nonfinite(params: Params) -> str | None:
    """The name of the first tensor with a value that is not finite, or None."""
    finite = _all_finite(params)
    return next(
        (path_name(path) for path, ok in jax.tree_util.tree_leaves_with_path(finite) if not ok),
        None,
    )


@jax.jit
def _all_finite(tree: Any) -> Any:
    """Whether all values of each tensor are finite: a tree of bool scalars."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
