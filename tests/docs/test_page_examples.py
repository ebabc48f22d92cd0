"""docs/examples, each run by the commands that its first lines give."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import compilers
import pytest
from pages import REPO, blocks
from small_models import save_small_chat_model

pytestmark = pytest.mark.slow


def commands_of(example: str) -> list[str]:
    """The commands in the docstring of a script, or in the first comment of a gin file."""
    text = (REPO / "docs" / "examples" / example).read_text()
    if example.endswith(".gin"):
        head = "\n".join(line.removeprefix("#") for line in text.partition("\n\n")[0].splitlines())
    else:
        head = text.split('"""')[1].replace("\\\\", "\\")
    indented = re.findall(r"(?:^(?: {3,}.*)\n)+", head + "\n", flags=re.MULTILINE)
    lines = textwrap.dedent("".join(indented)).replace("\\\n", "\\\n ")
    return [line.strip() for line in re.split(r"(?<!\\)\n", lines) if line.strip()]


def run(directory: Path, command: str) -> str:
    """Runs a command in a directory that sees the tree; returns what it prints."""
    for name in ("docs", "mixtures", "t5x_ext", "gin_configs"):
        (directory / name).exists() or (directory / name).symlink_to(REPO / name)
    environment = {name: value for name, value in os.environ.items() if name != "SUPERNI_DIR"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["XLA_FLAGS"] = compilers.UNOPTIMISED
    # What an installed package needs no path for.
    environment["PYTHONPATH"] = str(REPO)
    command = command.replace("PYTHONPATH=", f"PYTHONPATH={REPO}:")
    done = subprocess.run(
        ["bash", "-c", command], cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_own_rows_are_learned_and_the_model_answers(tmp_path: Path) -> None:
    (tune,) = commands_of("tune_my_jsonl.py")
    score = re.search(r"exact match on the test rows: ([\d.]+)", run(tmp_path, tune))
    assert float(score[1]) > 90
    (generate,) = commands_of("generate.py")
    answers = run(tmp_path, generate)
    assert re.search(r"greedy   food  \(probability (0\.[5-9]|1\.0)", answers)
    assert "beam     food" in answers


def test_an_adapter_is_tuned_over_a_model_given_by_its_path(tmp_path: Path) -> None:
    (command,) = commands_of("tune_adapter.py")
    save_small_chat_model(tmp_path / "downloads" / "smollm2")
    (rows,) = (
        b.text
        for b in blocks(REPO / "docs" / "decoder_only.md")
        if "cities.gin" not in b.text and "> cities.jsonl" in b.text
    )
    run(tmp_path, rows)
    printed = run(tmp_path, command)
    found = re.findall(
        r"^(base|tuned) +'(\w+)' at log-probability (-[\d.]+): '", printed, re.MULTILINE
    )
    scores = {(name, city): float(score) for name, city, score in found}
    cities = ("Lima", "Madrid", "Delhi", "Oslo")
    assert set(scores) == {(name, city) for name in ("base", "tuned") for city in cities}
    assert all(scores["tuned", city] > scores["base", city] for city in cities), scores
    assert list((tmp_path / "runs" / "cities_adapter").glob("checkpoint_*"))


def test_a_mixture_is_drawn_at_its_rates_and_trained_on(tmp_path: Path) -> None:
    draw, train = commands_of("register_mixture.py")
    printed = run(tmp_path, draw)
    (share,) = re.findall(r"differences: (\d+)%", printed)
    assert abs(int(share) - 75) <= 3
    examples = re.findall(r"Work out: (\d+) ([+-]) (\d+) = (-?\d+)", printed)
    assert len(examples) == 3
    for a, sign, b, c in examples:
        assert int(a) + int(sign + b) == int(c)
    run(tmp_path, train)
    assert (tmp_path / "runs" / "arithmetic" / "checkpoint_20").is_dir()


def test_a_small_study_is_reported_and_read(tmp_path: Path) -> None:
    study, read = commands_of("tiny_study.gin")
    run(tmp_path, study)
    assert commands_of("read_report.py") == [read]
    printed = run(tmp_path, read)
    line = r"^STL  .+  (\d+) labels a task: ROUGE-L ([\d.]+) \["
    points = re.findall(line, printed, flags=re.MULTILINE)
    assert [labels for labels, _ in points] == ["0", "50", "10", "50"]
    assert all(0 <= float(score) <= 100 for _, score in points)
