"""Fixtures shared by the whole suite."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path

import compilers
import gin
import pytest

REPO = Path(__file__).resolve().parents[1]

# Every test runs on the host: no accelerator may be claimed by a test run, and eight virtual
# devices let the mesh tests run in the same process as the rest.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# On a busy machine a device's thread may start late; XLA ends the process after 40 s of waiting.
os.environ.setdefault(
    "XLA_FLAGS",
    f"{compilers.UNOPTIMISED} --xla_force_host_platform_device_count=8 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compiled programs and trained vocabularies are kept for the commands of one test run only.
_CACHE = tempfile.TemporaryDirectory(prefix="t5x_ext_tests_")
os.environ.setdefault("T5X_EXT_CACHE", _CACHE.name)


def _case(item: pytest.Item) -> str | None:
    """The parameters of a test as they stand in brackets behind its name."""
    return item.callspec.id if hasattr(item, "callspec") else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests that run only when their marker is asked for.

    `slow(but="case")` marks a parametrised test of which this one case is for `make test`, so that
    the markers are settled before pytest's own `-m` looks at them.
    """
    for item in items:
        item.own_markers[:] = [
            mark
            for mark in item.own_markers
            if mark.name != "slow" or mark.kwargs.get("but", "") != _case(item)
        ]
    left_out = [
        item
        for item in items
        for name in ("long", "soak")
        if item.get_closest_marker(name) and name not in config.getoption("markexpr")
    ]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def superni_dir() -> Path:
    """The real SuperNI subset, or a skip that says which directory was looked for."""
    path = Path(os.environ.get("SUPERNI_DIR", REPO.parent / "shared" / "superni"))
    if not (path / "splits" / "default" / "test_tasks.txt").is_file():
        pytest.skip(f"real SuperNI data not found at {path} (set SUPERNI_DIR)")
    return path


@pytest.fixture(scope="session")
def specialization_dir() -> Path:
    """Reference rows and data of a domain, or a skip that says which directory was looked for."""
    path = Path(os.environ.get("SPECIALIZATION_DIR", REPO.parent / "shared" / "specialization"))
    if not (path / "goldens").is_dir():
        pytest.skip(f"specialization data not found at {path} (set SPECIALIZATION_DIR)")
    return path


@pytest.fixture(scope="session")
def writing_dir() -> Path:
    """The real writing sets and formats, or a skip that says which directory was looked for."""
    path = Path(os.environ.get("WRITING_TEST_DIR", REPO.parent / "shared" / "writing"))
    if not (path / "data" / "jfleg.test.jsonl").is_file():
        pytest.skip(f"real writing sets not found at {path} (set WRITING_TEST_DIR)")
    return path


def _registered() -> tuple[dict, dict, dict]:
    registry = gin.config._REGISTRY
    tree = copy.deepcopy(registry._selector_tree)
    return tree, dict(registry._selector_map), dict(gin.config._INVERSE_REGISTRY)


_REGISTERED_AT_FIRST = _registered()


def _forget_gin() -> None:
    tree, selectors, inverse = _REGISTERED_AT_FIRST
    gin.clear_config()
    registry = gin.config._REGISTRY
    registry._selector_tree, registry._selector_map = copy.deepcopy(tree), dict(selectors)
    gin.config._INVERSE_REGISTRY.clear()
    gin.config._INVERSE_REGISTRY.update(inverse)
    gin.config._RENAMED_SELECTORS.clear()


@pytest.fixture(autouse=True)
def _own_gin_registry():
    """gin keeps what it registers for the life of the process, which for a command is one run."""
    _forget_gin()  # of fixtures that serve a whole file, too
    yield
    _forget_gin()
