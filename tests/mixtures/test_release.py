"""A release directory: lists, missing files, categories, and the real data's counts."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import Counter
from pathlib import Path

import pytest

from mixtures.budgets import select
from mixtures.errors import DataError
from mixtures.release import BUNDLED_SUITE, Release, data_dir
from mixtures.splits import split_instances


def make_release(path: Path, train: list[str], test: list[str], files: list[str]) -> Path:
    (path / "tasks").mkdir(parents=True)
    (path / "splits" / "default").mkdir(parents=True)
    for track, names in (("train", train), ("test", test)):
        (path / "splits" / "default" / f"{track}_tasks.txt").write_text("\n".join(names))
    for name in files:
        task = {
            "Categories": [name[-1].upper()],
            "Definition": ["Do."],
            "Positive Examples": [],
            "Negative Examples": [],
            "Instances": [{"id": f"{name}-0", "input": "x", "output": ["y"]}],
        }
        (path / "tasks" / f"{name}.json").write_text(json.dumps(task))
    return path


@pytest.fixture
def small(tmp_path) -> Path:
    return make_release(
        tmp_path / "release",
        train=["t3_a", "t1_b", "t2_a", "gone_1", "gone_2"],
        test=["t5_a"],
        files=["t1_b", "t2_a", "t3_a", "t5_a", "t9_unlisted"],
    )


def test_names_are_in_list_order_and_missing_ones_told(small, caplog):
    release = Release(small)
    assert release.missing("train") == ("gone_1", "gone_2")
    assert not caplog.records
    assert release.names("train") == ("t3_a", "t1_b", "t2_a")
    assert release.names("test") == ("t5_a",)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.endswith(
        "train_tasks.txt: 2 of 5 tasks have no file (first: 'gone_1'); left out"
    )
    assert Release(small).names("test") == ("t5_a",)
    assert len(caplog.records) == 1  # once a process and list, not once a Release


def test_missing_refused(small):
    with pytest.raises(DataError, match="2 of 5 tasks have no file .*; allowed: every listed task"):
        Release(small, missing="refuse").names("train")


def test_categories(small):
    assert Release(small).categories("train") == {"A": ("t3_a", "t2_a"), "B": ("t1_b",)}


def test_task(small):
    release = Release(small)
    assert release.task("t5_a") is release.task("t5_a")
    assert release.task("t9_unlisted").name == "t9_unlisted"
    with pytest.raises(DataError, match=r"task 't5_' has no file .*; did you mean 't5_a'\?"):
        release.task("t5_")


def test_only_what_is_asked_for_is_read(small):
    (small / "tasks" / "t1_b.json").write_text("broken")
    release = Release(small)
    assert "t1_b" in release.names("train")
    assert release.task("t2_a").category == "A"
    with pytest.raises(DataError, match="t1_b.json: not JSON"):
        release.task("t1_b")


def test_fingerprint(small):
    before = Release(small).fingerprint(["t1_b", "t2_a"])
    assert re.fullmatch("[0-9a-f]{64}", before)
    assert Release(small).fingerprint(["t2_a", "t1_b", "t1_b"]) == before
    assert Release(small).fingerprint(["t1_b"]) != before
    path = small / "tasks" / "t2_a.json"
    path.write_bytes(path.read_bytes() + b"\n")
    assert Release(small).fingerprint(["t1_b", "t2_a"]) != before


def test_task_in_both_lists(tmp_path):
    path = make_release(tmp_path / "r", train=["a", "b"], test=["b"], files=["a", "b"])
    with pytest.raises(DataError, match="'b' is in train_tasks.txt too; allowed: a task in one"):
        Release(path).names("test")


def test_wrong_arguments(small, tmp_path):
    with pytest.raises(DataError, match="no directory tasks/; allowed: a directory with tasks/"):
        Release(tmp_path)
    with pytest.raises(DataError, match="missing 'skip'; allowed: report, refuse"):
        Release(small, missing="skip")
    with pytest.raises(DataError, match="track 'dev'; allowed: train, test"):
        Release(small).names("dev")
    (small / "splits" / "default" / "test_tasks.txt").unlink()
    with pytest.raises(DataError, match="test_tasks.txt: cannot be read"):
        Release(small).names("train")


def test_data_dir(small, monkeypatch):
    monkeypatch.delenv("SUPERNI_DIR", raising=False)
    assert data_dir() == BUNDLED_SUITE
    monkeypatch.setenv("SUPERNI_DIR", str(small))
    assert data_dir() == small
    assert data_dir(str(small / "tasks")) == small / "tasks"
    monkeypatch.setenv("SUPERNI_DIR", str(small / "absent"))
    with pytest.raises(DataError, match="SUPERNI_DIR '.*absent' is not a directory; allowed: a"):
        data_dir()


# Real data --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(superni_dir) -> Release:
    return Release(superni_dir)


def read_manifest(superni_dir: Path) -> list[dict[str, str]]:
    with (superni_dir / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def readme_table(superni_dir: Path) -> dict[str, dict[str, int]]:
    """The README's counts per test-track category, by column."""
    lines = (superni_dir / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| category | tasks |"))
    columns = [cell.strip() for cell in lines[start].strip("|").split("|")]
    table = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        numbers = [int(cell.replace(",", "")) for cell in cells]
        table[name] = dict(zip(columns[1:], numbers, strict=True))
    return table


def test_every_real_file_loads_as_the_manifest_says(real, superni_dir):
    loaded = {}
    for track in ("test", "train"):
        for name in real.names(track):
            record = real.task(name)
            loaded[name] = (track, record.category, len(record.instances))
    manifest = read_manifest(superni_dir)
    assert loaded == {
        row["task"]: (row["split"], row["category"], int(row["instances_here"])) for row in manifest
    }
    assert Counter(track for track, _, _ in loaded.values()) == {"test": 100, "train": 241}
    assert sum(count for track, _, count in loaded.values() if track == "test") == 28_815
    assert sum(count for track, _, count in loaded.values() if track == "train") == 26_413
    assert (len(real.missing("test")), len(real.missing("train"))) == (19, 515)


def test_real_category_counts_under_the_paper_policy(real, superni_dir):
    """With the README's 19 absent tasks, which have 100 test, 100 and 200 train rows each, the
    counts of every category and budget are those of the README's table for all 119."""
    table = readme_table(superni_dir)
    totals = Counter()
    for category, names in real.categories("test").items():
        expected = table[category]
        counts = Counter()
        for name in names:
            splits = split_instances(real.task(name), "test", "paper")
            ids = [instance.id for instance in splits.train]
            counts["instances here"] += len(real.task(name).instances)
            counts["test"] += len(splits.test)
            counts["train @100"] += len(select(name, ids, 100, order="release"))
            counts["train @200"] += len(select(name, ids, 200))
        absent = expected["tasks"] - len(names)
        assert len(names) == expected["tasks here"]
        assert counts["instances here"] == expected["instances here"]
        assert counts["test"] + 100 * absent == expected["test"]
        assert counts["train @100"] + 100 * absent == expected["train @100"]
        assert counts["train @200"] + 200 * absent == expected["train @200"]
        totals.update(counts)
        totals["tasks"] += expected["tasks"]
    assert totals["tasks"] == table["total"]["tasks"] == 119
    assert totals["test"] + 100 * 19 == 11_810
    assert totals["train @100"] + 100 * 19 == 11_599
    assert totals["train @200"] + 200 * 19 == 22_165


def test_real_leaks_are_the_five_small_tasks(real):
    leaked = {
        n for n in real.names("test") if split_instances(real.task(n), "test", "paper").leaked
    }
    assert leaked == {
        "task893_gap_fill_the_blank_coreference_resolution",
        "task760_msr_sqa_long_text_generation",
        "task602_wikitext-103_answer_generation",
        "task393_plausible_result_generation",
        "task640_esnli_classification",
    }
    for name in real.names("test"):
        splits = split_instances(real.task(name), "test")
        assert not splits.leaked
        assert (len(splits.train) == 0) == (name in leaked)
