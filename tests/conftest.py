"""Fixtures shared by the whole suite."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path

import gin
import pytest

REPO = Path(__file__).resolve().parents[1]

# Every test runs on the host: no accelerator may be claimed by a test run, and eight virtual
# devices let the mesh tests run in the same process as the rest.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile far more than they compute, so the compiler does not optimise.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compiled programs and trained vocabularies are kept for the commands of one test run only.
_CACHE = tempfile.TemporaryDirectory(prefix="t5x_ext_tests_")
os.environ.setdefault("T5X_EXT_CACHE", _CACHE.name)


@pytest.fixture(scope="session")
def superni_dir() -> Path:
    """The real SuperNI subset, or a skip that says which directory was looked for."""
    path = Path(os.environ.get("SUPERNI_DIR", REPO.parent / "shared" / "superni"))
    if not (path / "splits" / "default" / "test_tasks.txt").is_file():
        pytest.skip(f"real SuperNI data not found at {path} (set SUPERNI_DIR)")
    return path


@pytest.fixture(autouse=True)
def _own_gin_registry():
    """gin keeps what it registers for the life of the process, which for a command is one run."""
    registry = gin.config._REGISTRY
    tree = copy.deepcopy(registry._selector_tree)
    selectors, inverse = dict(registry._selector_map), dict(gin.config._INVERSE_REGISTRY)
    yield
    gin.clear_config()
    registry._selector_tree, registry._selector_map = tree, selectors
    gin.config._INVERSE_REGISTRY.clear()
    gin.config._INVERSE_REGISTRY.update(inverse)
