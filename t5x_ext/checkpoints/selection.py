"""Which checkpoints a config names."""

from __future__ import annotations

from t5x_ext import files
from t5x_ext.checkpoints.best import best_checkpoint
from t5x_ext.checkpoints.directories import checkpoint_dir, saved_steps
from t5x_ext.configs import RestoreCheckpointConfig
from t5x_ext.errors import ConfigError


def select(restore: RestoreCheckpointConfig) -> list[str]:
    """Lists the checkpoints to restore, in order; empty for a random start.

    A MODEL_DIR under mode 'latest' stays as it is: reading one falls back to an older checkpoint
    where the newest is damaged.

    Raises:
      ConfigError: a path does not fit the mode.
    """
    chosen = []
    for path in restore.paths:
        directory = files.absolute(path)
        steps = saved_steps(directory)
        if restore.mode == "specific" and steps:
            raise ConfigError(
                f"RestoreCheckpointConfig.path: {path} holds {len(steps)} checkpoints; mode "
                f"'specific' takes one, such as {checkpoint_dir(directory, steps[0])}, and mode "
                "'latest' the newest"
            )
        if restore.mode == "all" and not steps:
            raise ConfigError(
                f"RestoreCheckpointConfig.path: {path} holds no checkpoint_<step>; allowed with "
                "mode 'all': a directory that does"
            )
        if restore.mode == "all":
            chosen += [str(checkpoint_dir(directory, step)) for step in reversed(steps)]
        elif restore.mode == "best":
            chosen.append(str(best_checkpoint(directory)))
        else:
            chosen.append(path)
    return chosen


def select_one(restore: RestoreCheckpointConfig | None) -> str | None:
    """The checkpoint a training run starts from; None for a random start.

    Raises:
      ConfigError: there are several.
    """
    if restore is None or not restore.paths:
        return None
    if restore.is_several:
        raise ConfigError(
            f"RestoreCheckpointConfig: mode {restore.mode!r}, path {restore.path!r}; training "
            "starts from one checkpoint: give one path, and mode 'specific', 'latest' or 'best'"
        )
    return select(restore)[0]
