"""Fixtures of the comparisons with transformers, which need the torch and transformers packages."""

from __future__ import annotations

import pytest
from hf_twins import FAMILIES, Twin, make_twin


@pytest.fixture(scope="session", params=list(FAMILIES))
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """A random model of each family."""
    return make_twin(request.param, tmp_path_factory.mktemp(request.param))
