"""The gin files that ship with the package."""

from __future__ import annotations

import pytest

from t5x_ext import gin_utils
from t5x_ext.errors import ConfigError

RUNS = {
    "train": "MODEL_DIR",
    "finetune": "MODEL_DIR",
    "eval": "CHECKPOINT_PATH",
    "infer": "CHECKPOINT_PATH",
}


@pytest.mark.parametrize("folder", ["runs", "gin_configs/runs"])
@pytest.mark.parametrize("run", RUNS)
def test_run_files_are_found_from_any_directory(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"gin_configs/runs/\w+\.gin:\d+: .* required") as caught:
        gin_utils.parse([f"{folder}/{run}.gin"])
    assert RUNS[run] in str(caught.value)
