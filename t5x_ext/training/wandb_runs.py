"""A run's numbers in Weights & Biases, which is optional, and offline unless told otherwise."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from t5x_ext.errors import ConfigError


def check_installed() -> None:
    """Raises ConfigError where the package is missing."""
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "WANDB_PROJECT: the package wandb is not installed; install it "
            "(pip install 't5x_ext[wandb]') or leave WANDB_PROJECT out"
        )


class WandbRun:
    """One run of W&B for one MODEL_DIR, however often that is resumed.

    Files go to MODEL_DIR/wandb and nothing to a network; `wandb sync MODEL_DIR/wandb/offline-run-*`
    uploads them later, and WANDB_MODE=online in the environment at once.
    """

    def __init__(self, model_dir: Path, project: str) -> None:
        """Starts the run, or continues it.

        Args:
            model_dir: Local directory; its last part is the run's name.
            project: The project of W&B.
        """
        import wandb

        kept = model_dir / "wandb" / "run_id"
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            kept.write_text(secrets.token_hex(4))
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project=project,
            id=kept.read_text(),
            name=model_dir.resolve().name,
            dir=str(model_dir),
            mode="online" if mode == "online" else "offline",
            resume="allow" if mode == "online" else None,  # offline, the id alone joins the parts
            settings=wandb.Settings(console="off", silent=True),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers under the names of metrics.jsonl."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run; what is left to write is written."""
        self._run.finish()
