"""docs/api.md is what docs/build_api.py writes, and leaves nothing public out."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from types import ModuleType

import pytest
from pages import REPO

# Kinds of checkpoints, which `open_source` and `convert` choose among.
INTERNAL = {
    "t5x_ext.checkpoints.gguf",
    "t5x_ext.checkpoints.hugging_face",
    "t5x_ext.checkpoints.hugging_face.families",
    "t5x_ext.checkpoints.t5x_layout",
    "t5x_ext.files",
}


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_api", REPO / "docs" / "build_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(builder: ModuleType) -> dict[str, list[str] | None]:
    """Module -> the names that the page lists of it."""
    return {name: names for _, _, modules in builder.SECTIONS for name, names in modules.items()}


def test_the_page_is_up_to_date(builder: ModuleType) -> None:
    assert builder.PAGE.read_text(encoding="utf-8") == builder.build(), "run docs/build_api.py"


def test_every_row_says_what_its_name_is(builder: ModuleType) -> None:
    rows = re.findall(r"^\| `(.*?)` \| (.*) \|$", builder.build(), re.MULTILINE)
    assert len(rows) > 80
    assert [name for name, what in rows if len(what) < 10] == []


def test_every_public_package_is_listed(builder: ModuleType) -> None:
    """A module or package that states `__all__` means to be used from outside."""
    stated = set()
    for package in ("t5x_ext", "mixtures"):
        for path in (REPO / package).rglob("*.py"):
            names = [
                target.id
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            ]
            if "__all__" in names:
                parts = path.relative_to(REPO).with_suffix("").parts
                stated.add(".".join(part for part in parts if part != "__init__"))
    # T5X's names of what is listed elsewhere: docs/from_t5x.md has them.
    stated = {name for name in stated - INTERNAL if not name.startswith("t5x_ext.t5x.")}
    assert stated - set(listed(builder)) == set()


def test_everything_that_shipped_gin_files_bind_is_listed(builder: ModuleType) -> None:
    bound = set()
    for path in (REPO / "gin_configs").rglob("*.gin"):
        text = "".join(line.partition("#")[0] + "\n" for line in path.read_text().splitlines())
        imports = re.findall(r"^from (\S+) import (\w+)(?: as (\w+))?$", text, re.MULTILINE)
        for package, name, alias in imports:
            for thing in re.findall(rf"(?<![\w.]){alias or name}\.(\w+)", text):
                if package != "__gin__":
                    bound.add((f"{package}.{name}", thing))
    page = listed(builder)
    missing = {
        f"{module}.{name}"
        for module, name in bound
        if name not in (page.get(module) or importlib.import_module(module).__all__)
    }
    assert len(bound) > 30
    assert missing == set()
