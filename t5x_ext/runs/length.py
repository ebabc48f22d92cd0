"""How long a training run is, and at which step it began."""

from __future__ import annotations

import dataclasses

from t5x_ext import bounds, files
from t5x_ext.configs import CheckpointConfig
from t5x_ext.data.batching import TrainBatches
from t5x_ext.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class RunLength:
    """How long a run is: exactly one of the three is given."""

    total_steps: int | None = None
    relative_steps: int | None = None
    total_epochs: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "TRAIN_STEPS": self.total_steps,
            "TRAIN_STEPS_RELATIVE": self.relative_steps,
            "TRAIN_EPOCHS": self.total_epochs,
        }
        given = {name: value for name, value in limits.items() if value is not None}
        if len(given) != 1:
            raise ConfigError(
                f"train: set exactly one of {', '.join(limits)}; "
                f"set are: {', '.join(given) or 'none'}"
            )
        for name, value in given.items():
            bounds.check_int(name, value, 1)

    def check_initial(self, step: int, path: str) -> None:
        """Refuses a run that would end before its first step.

        Args:
          step: of the initial checkpoint.
          path: where that is.

        Raises:
          ConfigError: TRAIN_STEPS, which includes these steps, is not above them.
        """
        if self.total_steps is not None and step >= self.total_steps:
            raise ConfigError(
                f"TRAIN_STEPS: {self.total_steps}, which includes the steps of the initial "
                f"checkpoint, and {path} is at step {step} already; allowed: more than {step}, or "
                f"TRAIN_STEPS_RELATIVE = {self.total_steps} for as many on top"
            )

    def last_step(self, batches: TrainBatches, initial_step: int) -> int:
        """The step at which a run ends that began with a checkpoint of `initial_step`."""
        if self.total_steps is not None:
            return self.total_steps
        if self.relative_steps is not None:
            return initial_step + self.relative_steps
        assert self.total_epochs is not None  # the only one left
        return initial_step + batches.steps_for_epochs(self.total_epochs)


def find_initial_step(length: RunLength, model_dir: str, checkpoint_cfg: CheckpointConfig) -> int:
    """The step that the run of MODEL_DIR began with, or begins with now.

    Raises:
      ConfigError: a new run would end before its first step (one that goes on may be at its end),
        or there is no such checkpoint.
    """
    # Orbax is among their imports, which `RunLength` can do without.
    from t5x_ext.checkpoints import load_meta, open_source, selection
    from t5x_ext.checkpoints.directories import saved_steps

    if saved_steps(files.absolute(model_dir, "MODEL_DIR")):
        return load_meta(model_dir)["initial_step"]
    path = selection.select_one(checkpoint_cfg.restore)
    if path is None:
        return 0
    step = open_source(path).step
    length.check_initial(step, path)
    return step
