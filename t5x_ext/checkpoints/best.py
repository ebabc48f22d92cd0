"""Which checkpoint of a run is its best, by a number that its evaluations log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from t5x_ext.checkpoints.damage import Damage, reading
from t5x_ext.checkpoints.directories import checkpoint_dir, saved_steps
from t5x_ext.checkpoints.own_layout import read_meta
from t5x_ext.errors import ConfigError

BEST = "best"  # in the meta of a checkpoint that was evaluated


class Best(NamedTuple):
    """What to judge checkpoints by, as `SaveCheckpointConfig.best` has it.

    Attributes:
        metric: As in metrics.jsonl: 'eval/cross_entropy', 'infer_eval/rougeL'.
        mode: 'min' or 'max', whichever is best.
    """

    metric: str
    mode: str

    def describe(self, value: float) -> dict[str, Any]:
        """What a checkpoint says of its value, for `meta[BEST]`."""
        return {"metric": self.metric, "mode": self.mode, "value": value}

    def value_in(self, meta: Mapping[str, Any]) -> float | None:
        """The value that a meta states; None if it states none, or one of another number."""
        stated = dict(meta.get(BEST, {}))
        value = stated.pop("value", None)
        return value if stated == self._asdict() else None

    def pick(self, values: Mapping[int, float]) -> int | None:
        """The step with the best value, the earliest of equals; None without finite ones."""
        sign = 1.0 if self.mode == "min" else -1.0
        finite = [(sign * value, step) for step, value in values.items() if math.isfinite(value)]
        return min(finite)[1] if finite else None

    def values_in(self, model_dir: epath.Path) -> dict[int, float]:
        """The values of a run's checkpoints by step, of those that state one and can be read."""
        values = {}
        for step in saved_steps(model_dir):
            value = self.value_in(_meta(model_dir, step))
            if value is not None:
                values[step] = value
        return values


def best_checkpoint(model_dir: epath.Path) -> epath.Path:
    """The best checkpoint of a run, by what its newest evaluated one was judged by.

    Raises:
        ConfigError: If none was evaluated in a run with `SaveCheckpointConfig.best`.
    """
    for step in saved_steps(model_dir):
        stated = _meta(model_dir, step).get(BEST)
        if stated is not None:
            best = Best(stated["metric"], stated["mode"])
            found = best.pick(best.values_in(model_dir))
            if found is not None:
                return checkpoint_dir(model_dir, found)
    raise ConfigError(
        f"RestoreCheckpointConfig.path: {model_dir}: no checkpoint in it has been judged; allowed "
        "with mode 'best': the MODEL_DIR of a run with KEEP_BEST"
    )


def _meta(model_dir: epath.Path, step: int) -> dict[str, Any]:
    """A checkpoint's meta; empty of one that is damaged, which restoring it tells."""
    path = checkpoint_dir(model_dir, step)
    try:
        with reading(path):
            return read_meta(path)
    except Damage:
        return {}
