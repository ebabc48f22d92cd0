"""MIXTURE_OR_TASK_MODULE: a module that is not there is refused, what a module raises is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from t5x_ext import audit
from t5x_ext.data.datasets import import_tasks
from t5x_ext.errors import ConfigError


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of tasks on Python's path."""
    found = tmp_path / "package_of_tasks"
    found.mkdir()
    (found / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == found.name]:
        del sys.modules[name]


def test_a_module_is_imported(package: Path) -> None:
    (package / "good.py").write_text("import json")
    import_tasks(None)
    import_tasks("package_of_tasks.good")
    assert "package_of_tasks.good" in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        "my_taks",
        "my_taks.tasks",
        "package_of_tasks.taks",
        "package_of_tasks.good.py",
        "",
        "..x",
        ".x",
        "x.",
        "a\0b",
        "\ud800",
        5,
    ],
)
def test_a_module_that_is_not_there_is_refused(name: object, package: Path) -> None:
    (package / "good.py").touch()
    with pytest.raises(ConfigError) as caught:
        import_tasks(name)
    message = str(caught.value)
    assert message.startswith(f"MIXTURE_OR_TASK_MODULE: {name!r}") and "; allowed: a mod" in message


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import package_of_task", ModuleNotFoundError),
        ("import package_of_tasks.missing", ModuleNotFoundError),
        ("from package_of_tasks import missing", ImportError),
        ("int('x')", ValueError),
        ("len(5)", TypeError),
        ("raise ModuleNotFoundError", ModuleNotFoundError),
    ],
)
def test_what_a_module_raises_passes_through(
    code: str, error: type[Exception], package: Path
) -> None:
    (package / "bad.py").write_text(code)
    with pytest.raises(error):
        import_tasks("package_of_tasks.bad")


def test_the_audit_refuses_it_in_one_line() -> None:
    settings = audit.Settings(mixtures=("held_in",), module="my_taks")
    with pytest.raises(ConfigError, match="^MIXTURE_OR_TASK_MODULE: 'my_taks': no such module"):
        audit.audit(settings)
