"""`--help` of every command, and that no page names a flag, gin file or macro that there is not."""

from __future__ import annotations

import functools
import re
import subprocess
import sys

import pytest
from pages import REPO

from t5x_ext.cli import COMMANDS, module_of

MODULES = [
    *map(module_of, COMMANDS),
    "mixtures.train_vocabulary",
    "mixtures.super_natural_instructions",
    "mixtures.writing",
]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (REPO / "docs").glob("*.md"))]
# Flags of `tfds build`, whose parser takes TensorFlow to build.
TFDS_FLAGS = {"--data_dir", "--manual_dir"}
SHIPPED = "(?:models|optimizers|meshes|decoding|runs|studies)"
# Wrong on purpose: the pages show what is said about them.
MISSPELT = {"TRIAN_STEPS", "LERNING_RATE"}


# Packages that take their time to import. JAX only where gin has to know the types of a model.
SLOW = set(
    "scipy nltk tensorflow seqio tensorflow_datasets matplotlib orbax tensorstore torch "
    "transformers flax pandas sklearn".split()
)
WITHOUT_JAX = {"report", "score", "audit", "inspect"}
SHOW_HELP = """
import runpy, sys
sys.argv[1:] = ["--help"]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
finally:
    sys.stderr.write(" ".join({{name.partition(".")[0] for name in sys.modules}}))
"""


@functools.cache
def help_of(module: str) -> tuple[str, frozenset[str]]:
    """What --help prints, and the packages that it imports."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_HELP.format(module=module)],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    imported = frozenset(done.stderr.split())
    assert done.returncode == 0 and "runpy" in imported, done.stderr
    return done.stdout, imported


@pytest.mark.parametrize("module", MODULES)
def test_help_imports_nothing_slow(module: str) -> None:
    jax = {"jax", "optax"} if module in map(module_of, WITHOUT_JAX) else set()
    assert not help_of(module)[1] & (SLOW | jax)


@pytest.mark.parametrize("module", MODULES)
def test_help_shows_an_example(module: str) -> None:
    text, _ = help_of(module)
    called = rf"(?:python -m {re.escape(module)}|{module.replace('.', ' ')}) (\S+)"
    examples = [word for word in re.findall(rf"^ +{called}", text, re.MULTILINE)]
    assert [word for word in examples if word[0] not in "[("], text


@functools.cache
def macros() -> set[str]:
    """Every macro that the shipped gin files set or use."""
    text = "\n".join(path.read_text() for path in (REPO / "gin_configs").rglob("*.gin"))
    return set(re.findall(r"^([A-Z_0-9]+) =", text, re.MULTILINE)) | set(
        re.findall(r"%([A-Z_0-9]+)", text)
    )


def commands_on(page: str) -> list[tuple[str, str]]:
    """(module, rest of the line) of every call of a command, in blocks, tables and sentences."""
    text = re.sub(r"\\\n", " ", (REPO / page).read_text())
    calls = re.findall(r"python -m ((?:t5x_ext|mixtures)\.\w+)([^`\n]*)", text)
    short = re.findall(r"`t5x_ext ([a-z]+)([^`\n]*)", text)
    return calls + [(module_of(name), rest) for name, rest in short]


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_only_what_there_is(page: str) -> None:
    for module, rest in commands_on(page):
        assert module in MODULES, f"{page}: {module}"
        for flag in re.findall(r"(?<!\S)\[?(--[\w.]+)", rest.partition(" #")[0]):
            if flag.startswith("--gin."):
                name = flag.removeprefix("--gin.")
                assert "." in name or name in macros() | {"NAME", *MISSPELT}, f"{page}: {flag}"
            elif module != "mixtures.super_natural_instructions" or flag not in TFDS_FLAGS:
                assert f"{flag}" in help_of(module)[0], f"{page}: {module} {flag}"
        for file in re.findall(rf"--gin_file=(?:gin_configs/)?({SHIPPED}/[\w.]+)", rest):
            assert (REPO / "gin_configs" / file).is_file(), f"{page}: {file}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (REPO / page).read_text()):
        if not target.startswith(("http", "#")):
            assert ((REPO / page).parent / target.partition("#")[0]).exists(), f"{page}: {target}"


FOLDERS = "(?:benchmarks|docs|gin_configs|mixtures|t5x_ext|tests|tpu_scripts)"


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "docs/examples/README.md"])
def test_paths_in_backquotes_exist(page: str) -> None:
    """A part in braces stands for several names: `runs/{eval,infer}.gin`."""
    text = re.sub(r"^```.*?^```$", "", (REPO / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    paths = re.findall(rf"`({FOLDERS}/[^`\s]*)`", text)
    paths += [f"gin_configs/{file}" for file in re.findall(rf"`({SHIPPED}/[^`\s]+\.gin)`", text)]
    for path in paths:
        before, brace, rest = path.partition("{")
        names, _, after = rest.partition("}")
        for name in names.split(",") if brace else [""]:
            assert (REPO / f"{before}{name}{after}").exists(), f"{page}: {path}"


def test_the_readme_lists_every_command() -> None:
    listed = {module for module, _ in commands_on("README.md")}
    assert listed >= set(MODULES)
