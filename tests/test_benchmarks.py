"""Benchmarks say which cases they have, and refuse others in one line."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).resolve().parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_flag_that_takes_names_lists_and_checks_them(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("add_argument"):
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        name = ast.unparse(node.args[0])
        if given.get("metavar") == "'LIST'" or name in ("'--cases'", "'--only'"):
            assert "choices" in given or (
                given["type"].startswith("names_flag(") and "join(" in given["help"]
            ), name


def test_metrics_are_named_and_others_refused_in_one_line() -> None:
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        (path,) = (path for path in BENCHMARKS if path.stem == "metrics")
        return subprocess.run([sys.executable, path, *flags], capture_output=True, text=True)

    assert "rougeL" in run("--help").stdout
    refused = run("--only", "rougel,nonsense")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1].endswith("'rougel'; did you mean 'rougeL'?")
