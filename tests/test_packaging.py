"""The wheel holds everything, works away from the source tree, and declares what it imports."""

from __future__ import annotations

import ast
import email
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parents[1]
PACKAGES = ("t5x_ext", "mixtures", "gin_configs")


def canonical(name: str) -> str:
    """A distribution name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraint_versions() -> dict[str, str]:
    """Distribution -> version, from constraints.txt."""
    lines = (REPO / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pairs}


def package_files(root: Path) -> set[str]:
    """Every file of the three packages under `root`, as POSIX paths relative to it."""
    return {
        path.relative_to(root).as_posix()
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def run(command: list[str], **kwargs) -> str:
    """Standard output of `command`; a failure shows everything the command printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built with no network from a copy of the sources, so that none of it stays behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    for package in PACKAGES:
        shutil.copytree(
            REPO / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    out = tmp_path_factory.mktemp("wheel")
    run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
        + ["--wheel-dir", str(out), str(source)]
    )
    (built,) = out.glob("t5x_ext-*.whl")
    return built


@pytest.fixture(scope="module")
def requirements(wheel) -> list[Requirement]:
    """The dependencies that the wheel declares, those of its extras included."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    return [Requirement(text) for text in metadata.get_all("Requires-Dist")]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel unpacked into an empty directory; dependencies come from this environment."""
    target = tmp_path_factory.mktemp("installed")
    run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile"]
        + ["--target", str(target), str(wheel)]
    )
    return target


@pytest.fixture
def elsewhere(installed, tmp_path) -> dict:
    """Subprocess options: another directory, and the installed wheel as the only copy in sight."""
    env = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("SUPERNI_DIR", None)
    return {"cwd": tmp_path, "env": env}


def test_wheel_holds_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    assert package_files(REPO) - shipped == set()
    assert any(name.endswith(".gin") for name in shipped)
    assert "mixtures/bundled/suite/vocab.model" in shipped
    assert any(name.startswith("mixtures/bundled/suite/tasks/") for name in shipped)
    assert not any(name.startswith("tests/") for name in shipped)


def test_installed_packages_and_bundled_suite_are_found(installed, elsewhere):
    code = (
        f"import {', '.join(PACKAGES)}\n"
        "from mixtures.release import Release, data_dir\n"
        "release = Release(data_dir())\n"
        f"print(*[package.__file__ for package in ({', '.join(PACKAGES)})])\n"
        "print(data_dir(), len(release.names('train')), len(release.names('test')))"
    )
    files, suite = run([sys.executable, "-c", code], **elsewhere).splitlines()
    assert [Path(file).parents[1] for file in files.split()] == [installed] * len(PACKAGES)
    directory, train_tasks, test_tasks = suite.split()
    assert Path(directory).is_relative_to(installed)
    assert int(train_tasks) >= 10 and int(test_tasks) >= 10


@pytest.mark.parametrize("command", [["-m", "t5x_ext.cli"], ["bin/t5x_ext"]])
def test_console_script_scores_from_another_directory(command, installed, elsewhere):
    if command[0] == "bin/t5x_ext":
        command = [str(installed / command[0])]
    assert "score" in run([sys.executable, *command, "--help"], **elsewhere)
    rows = [
        {"task": "task1_a", "category": "C", "id": str(i), "inputs": "q", "truncated": False}
        | {"references": ["yes"], "prediction": prediction}
        for i, prediction in enumerate(["Yes.", "no"])
    ]
    predictions = elsewhere["cwd"] / "predictions.jsonl"
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = run([sys.executable, *command, "score", str(predictions), "--json"], **elsewhere)
    # One of two predictions equals its reference after case and punctuation are removed.
    assert re.search(r'"exact_match": *(\{[^}]*)?50\.0', scores), scores


def test_every_dependency_is_bounded_and_from_the_index(requirements):
    assert {str(r.marker) for r in requirements if r.marker} == {
        f'extra == "{extra}"'
        for extra in ("tpu", "plan", "gpu", "torch", "parity", "stemmer", "errant", "wandb", "test")
    }
    tested = constraint_versions()
    for requirement in requirements:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert requirement.url is None, requirement
        assert operators == {">=", "<"}, f"{requirement} must be bounded on both sides"
        if requirement.name != "libtpu":  # two extras ask for two versions, see constraints.txt
            assert requirement.specifier.contains(tested[canonical(requirement.name)]), requirement


def test_the_tested_set_has_one_tensorflow():
    flavours = re.compile(r"^(tensorflow|tf-nightly)(-cpu|-gpu|-intel|-macos|-rocm)?$")
    assert [name for name in constraint_versions() if flavours.match(name)] == ["tensorflow"]


def test_third_party_imports_are_declared(requirements):
    """Nothing is imported that only happens to be installed by another package."""
    declared = {canonical(requirement.name) for requirement in requirements}
    providers = importlib.metadata.packages_distributions()
    undeclared = set()
    for path in (path for package in PACKAGES for path in (REPO / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for top in {name.split(".")[0] for name in names}:
                own = top in PACKAGES or top in sys.stdlib_module_names
                if not own and not declared & {canonical(d) for d in providers.get(top, [top])}:
                    undeclared.add(f"{path.relative_to(REPO)}: {top}")
    assert undeclared == set()
