"""The score command: table, JSON, scored copy, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from t5x_ext import score
from t5x_ext.metrics.predictions import read_predictions


@pytest.fixture
def predictions(tmp_path):
    def line(task: str, prediction: str) -> str:
        fields = {"task": task, "category": task.upper(), "id": "1", "references": ["a good day"]}
        return json.dumps({**fields, "prediction": prediction, "inputs": "", "truncated": False})

    path = tmp_path / "p.jsonl"
    lines = [line("x", "A good day!"), line("x", "bad"), line("y", "a good")]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_json_holds_both_means_and_groups(predictions, capsys):
    assert score.main([str(predictions), "--by", "task,category", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["predictions"] == 3 and summary["tasks"] == 2
    # y: precision 1, recall 2/3 -> 0.8
    assert summary["by_task"]["y"]["means"]["rougeL"]["mean"] == pytest.approx(80)
    assert summary["by_category"]["X"]["means"]["exact_match"]["mean"] == pytest.approx(50)
    assert summary["overall"]["instances"]["means"]["rougeL"]["mean"] == pytest.approx(60)
    assert summary["overall"]["tasks"]["means"]["rougeL"]["mean"] == pytest.approx(65)


def test_table_and_no_file_unless_asked(predictions, capsys):
    assert score.main([str(predictions)]) == 0
    assert "60.00 [" in capsys.readouterr().out
    assert list(predictions.parent.iterdir()) == [predictions]


def test_out_adds_scores_in_file_order(predictions, tmp_path):
    out = tmp_path / "scored.jsonl"
    assert score.main([str(predictions), "--out", str(out)]) == 0
    assert [row.score["exact_match"] for row in read_predictions(out)] == [1.0, 0.0, 0.0]


def test_malformed_line_is_one_line_on_stderr(predictions, capsys):
    predictions.write_text(predictions.read_text() + '{"task": "x"}\n')
    assert score.main([str(predictions)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: {predictions}: line 4: field 'category': missing; allowed: a string\n"
    )


def test_unknown_group_is_refused(predictions, capsys):
    assert score.main([str(predictions), "--by", "tsak"]) == 1
    assert capsys.readouterr().err == "error: --by: 'tsak' is unknown; allowed: task, category\n"


def test_scoring_needs_neither_jax_nor_tensorflow():
    code = (
        "import sys, t5x_ext.score, t5x_ext.metrics;"
        "print([m for m in ('jax', 'tensorflow', 'seqio') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
