"""Data flows one way: a stage imports only stages before it, or a leaf."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

LEAVES = {
    "accelerators",
    "errors",
    "files",
    "configs",
    "schedules",
    "meshes",
    "partitioning",
    "metrics",
    "multihost",
    "retrieval",
    "terminal",
    "bounds",
    "caches",
    "grids",
    "locks",
    "memory",
    "json_fields",
    "progress",
}
# In the order in which data flows; `runs` puts stages together for the commands and for studies.
STAGES = [
    "data",
    "audits",
    "models",
    "training",
    "checkpoints",
    "decoding",
    "planning",
    "text_model",
    "seqio",
    "runs",
    "generation",
    "reports",
    "studies",
]
T5X_NAMES = {"t5x"}  # imports from everywhere; nothing imports it
GIN = {"gin_utils", "gin_strict", "startup"}
COMMANDS = {
    "train",
    "eval",
    "infer",
    "specialize",
    "study",
    "report",
    "score",
    "show_batch",
    "audit",
    "plan",
    "convert",
    "inspect_checkpoint",
    "cli",
    "__main__",
}
NO_TENSORFLOW = [
    "t5x_ext.models",
    "t5x_ext.training.trainer",
    "t5x_ext.decoding.predict",
    "t5x_ext.checkpoints",
    "t5x_ext.metrics.scoring",
    "t5x_ext.reports.study_files",
    "t5x_ext.data.batching",
    "t5x_ext.data.datasets",
    "t5x_ext.data.task_metrics",
    "t5x_ext.audits.measures",
    "t5x_ext.generation",
    "t5x_ext.configs",
    "t5x_ext.studies",
    "t5x_ext.train",
    "t5x_ext.study",
    "mixtures",
    "mixtures.lookup",
    "mixtures.prompts",
    "mixtures.vocabularies",
    "mixtures.truncation",
    "mixtures.writing.tasks",
    "mixtures.specialization.tasks",
]


def imports_of(path: Path) -> set[str]:
    """Modules of our packages that a file imports, anywhere in it but for type checkers alone."""
    found = set()
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found.update(name for name in names if name.startswith(("t5x_ext", "mixtures")))
    return found


def part_of(module: str) -> str:
    """'t5x_ext.models.layers' -> 'models'."""
    return module.split(".")[1] if "." in module else ""


def files_of(part: str) -> list[Path]:
    package = REPO / "t5x_ext" / part
    return sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]


def test_every_part_of_the_package_has_its_place() -> None:
    present = {p.stem for p in (REPO / "t5x_ext").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert (
        present - {"__init__", "__pycache__"} == LEAVES | set(STAGES) | GIN | COMMANDS | T5X_NAMES
    )


@pytest.mark.parametrize("part", [*sorted(LEAVES), *STAGES, *sorted(GIN)])
def test_a_stage_imports_only_what_comes_before(part: str) -> None:
    allowed = LEAVES | {part} | (GIN if part in GIN else set())
    if part in STAGES:
        allowed |= set(STAGES[: STAGES.index(part)])
    for path in files_of(part):
        used = {part_of(m) for m in imports_of(path) if m.startswith("t5x_ext.")}
        assert used <= allowed, f"{path.name} imports {sorted(used - allowed)}"


def test_no_two_modules_import_each_other() -> None:
    """Wherever in the file the import is; a package's `__init__` may import what lies inside it."""
    files = [path for package in ("t5x_ext", "mixtures") for path in (REPO / package).rglob("*.py")]
    names = {".".join(path.relative_to(REPO).with_suffix("").parts): path for path in files}
    graph = {name: imports_of(path) & names.keys() for name, path in names.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_mixtures_takes_from_t5x_ext_only_how_its_commands_speak() -> None:
    """The rest of it needs no model; `terminal` and what that imports need but Python."""
    for path in (REPO / "mixtures").rglob("*.py"):
        allowed = "t5x_ext.terminal" if "__main__" in path.read_text() else ()
        used = [name for name in imports_of(path) if name.startswith("t5x_ext")]
        assert all(name.startswith(allowed) for name in used), path.name
    for name in ("terminal", "errors"):
        used = imports_of(REPO / "t5x_ext" / f"{name}.py")
        assert all(module.startswith("t5x_ext.errors") for module in used)


def test_paths_are_made_absolute_in_one_place() -> None:
    """`epath`'s own method takes gs://bucket for a directory below the working directory."""
    for path in [*(REPO / "t5x_ext").rglob("*.py"), *(REPO / "mixtures").rglob("*.py")]:
        if path != REPO / "t5x_ext" / "files.py":
            for node in ast.walk(ast.parse(path.read_text())):
                assert not (isinstance(node, ast.Attribute) and node.attr == "absolute") or (
                    ast.unparse(node) == "files.absolute"
                ), path


def test_gin_enters_only_at_the_commands() -> None:
    for path in (REPO / "t5x_ext").rglob("*.py"):
        part = path.relative_to(REPO / "t5x_ext").parts[0].removesuffix(".py")
        if part in GIN | COMMANDS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert "gin" not in [alias.name for alias in node.names], path.name


# Their own transformations sort and hash whole modules at every call, and keep state that our
# checkpoints would not see: modules are bound inside functions that JAX transforms.
NNX_TRANSFORMS = {"jit", "grad", "value_and_grad", "vmap", "pmap", "scan", "remat", "Optimizer"}


def test_flax_is_imported_where_models_are() -> None:
    for path in (REPO / "t5x_ext").rglob("*.py"):
        if path.is_relative_to(REPO / "t5x_ext" / "models") or "t5x_layout" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(n.split(".")[0] == "flax" for n in names), f"{path} imports {names}"


def test_only_jax_transforms_functions() -> None:
    for path in (REPO / "t5x_ext").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("nnx", "flax.nnx"):
                assert node.attr not in NNX_TRANSFORMS, f"{path}: nnx.{node.attr}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flax.nnx"):
                assert not NNX_TRANSFORMS & {alias.name for alias in node.names}, path


def test_what_runs_on_accelerators_never_loads_tensorflow() -> None:
    code = f"import sys, importlib\nfor m in {NO_TENSORFLOW!r}: importlib.import_module(m)\n"
    code += "print([m for m in ('tensorflow', 'seqio', 'tensorflow_datasets') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
