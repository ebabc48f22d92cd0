"""A server of commands, and a run that nothing disturbs, for all tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from disturbed_runs import Server, log_of


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def unbroken(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that is left alone."""
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    assert server.train(directory) == 0, log_of(directory)
    return directory
