"""Figures of papers beside those of a study."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_study import row_of, write_study

from t5x_ext.errors import ConfigError
from t5x_ext.reports.datasets.content import find
from t5x_ext.reports.datasets.published import names, published_blocks, read_published
from t5x_ext.reports.documents.document import Paragraph, Table
from t5x_ext.reports.study_files import read_study


@pytest.mark.parametrize("name", names())
def test_papers_of_the_package_can_be_read(name):
    published = read_published(name)
    assert published.rows and published.source


def test_the_papers_means_are_those_of_its_scores():
    published = read_published("writing_alpaca")
    for row in published.rows:
        if row.mean is not None:
            assert np.mean(row.scores) == pytest.approx(row.mean, abs=0.011)


def test_published_figures_stand_beside_ours(tmp_path):
    root = write_study(tmp_path / "study")
    paper = {
        "source": "A. Author 2023",
        "datasets": [
            {"name": "FIX", "metric": "F0.5", "rows": 100, "task": "writing.fix"},
            {"name": "OTHER", "metric": "SARI", "rows": 100, "task": "writing.absent"},
        ],
        "rows": [
            {"label": "theirs", "arm": "base", "scores": [12.5, 30], "mean": 21.25},
            {"label": "another", "scores": [None, 31.5]},
        ],
        "parts": {
            "columns": ["P", "R", "F0.5"],
            "datasets": ["FIX", "OTHER"],
            "rows": [
                {"label": "greedy", "arm": "most", "scores": [[70, 30, 55], [1, 2, 3]]},
                {"label": "another", "scores": [[60, 20, 44], [4, 5, 6]]},
            ],
        },
        "footnotes": ["Read this."],
    }
    path = tmp_path / "paper.json"
    path.write_text(json.dumps(paper))
    study = json.loads((root / "study.json").read_text())
    (root / "study.json").write_text(json.dumps(study | {"published": str(path)}))
    findings = find(read_study(root))
    published = read_published(findings.study.published)
    table, parts, note = published_blocks(published, findings.scores)
    assert isinstance(table, Table) and note == Paragraph("Read this.")
    assert table.groups == (("", 1), ("FIX (F0.5)", 2), ("OTHER (SARI)", 1), ("mean", 1))
    assert table.rows[0] == ("theirs", "12.50", "0.00", "30.00", "21.25")
    assert table.rows[1] == ("another", "–", "–", "31.50", "–")
    assert "FIX: fix by ERRANT" in table.note
    assert isinstance(parts, Table)
    assert parts.groups == (("", 1), ("FIX, paper", 3), ("FIX, here", 3), ("OTHER, paper", 3))
    # At its largest budget it makes 22 of 24 edits, and changes much in the row that is hostile.
    own = row_of(findings.scores, "most", "n100").parts[0]
    assert parts.rows[0][1:7] == ("70.00", "30.00", "55.00", *(f"{value:.2f}" for value in own))
    assert own[1] == pytest.approx(100 * 22 / 24)
    assert parts.rows[1][4:7] == ("–", "–", "–")

    path.write_text(json.dumps(paper | {"rows": [{"label": "x", "scores": [1]}]}))
    with pytest.raises(ConfigError, match=r"rows\[0\].scores': \[1\]; allowed: 2 numbers of 0 to"):
        read_published(str(path))


def test_unknown_paper_is_refused():
    with pytest.raises(ConfigError, match="PUBLISHED: 'zhang'; allowed: .*writing_alpaca"):
        read_published("zhang")
