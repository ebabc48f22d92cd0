"""Very many tiny tasks, and very long texts, within reasonable time.

TASKS=100000 tries that many instead of 10,000.
"""

from __future__ import annotations

import collections
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mixtures
from mixtures import files
from mixtures.errors import DataError
from mixtures.names import find_scope
from mixtures.own_data import read_jsonl
from mixtures.release import Release
from t5x_ext import audit
from t5x_ext.configs import DatasetConfig
from t5x_ext.data import datasets

TASKS = int(os.environ.get("TASKS", "10000"))


@pytest.fixture(autouse=True)
def _default_data() -> Iterator[None]:
    yield
    mixtures.configure()


def make_release(directory: Path, count: int) -> None:
    (directory / "tasks").mkdir(parents=True)
    lists = directory / "splits" / "default"
    lists.mkdir(parents=True)
    names = [f"task{number:06d}" for number in range(count)]
    for number, name in enumerate(names):
        task = {
            "Categories": [f"category {number % 7}"],
            "Definition": ["Copy."],
            "Positive Examples": [],
            "Negative Examples": [],
            "Instances": [{"id": f"{name}-0", "input": f"say {number}", "output": ["a"]}],
        }
        (directory / "tasks" / f"{name}.json").write_text(json.dumps(task))
    (lists / "train_tasks.txt").write_text("\n".join(names[: count // 2]))
    (lists / "test_tasks.txt").write_text("\n".join(names[count // 2 :]))


def test_very_many_tiny_tasks_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_release(tmp_path, TASKS)
    read: collections.Counter[str] = collections.Counter()
    read_bytes = files.read_bytes
    monkeypatch.setattr(
        files, "read_bytes", lambda path: read.update([str(path)]) or read_bytes(path)
    )
    release = Release(tmp_path)
    scopes = {name: find_scope(name, release).tasks for name in ("pretune", "held_in")}
    assert [len(tasks) for tasks in scopes.values()] == [TASKS // 2, TASKS - TASKS // 2]
    categories = release.categories("test")
    assert sum(map(len, categories.values())) == TASKS - TASKS // 2 and len(categories) == 7
    assert len(release.fingerprint(release.names("train"))) == 64
    with pytest.raises(DataError, match=r"has no file .*; did you mean 'task0"):
        release.task("task00009")
    # About 0.1 ms a task: every file is read for its category, and once more for the fingerprint.
    assert len(read) >= TASKS and max(read.values()) <= 2


def test_very_many_tiny_tasks_are_read_and_audited_and_a_bad_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    count = TASKS // 5
    make_release(tmp_path, count)
    mixtures.configure(data_dir=str(tmp_path))
    lengths = {"inputs": 64, "targets": 16}
    cfg = DatasetConfig("pretune", lengths, "train", 16, prompt="tk.def")
    audited = ["--mixture=pretune", f"--data_dir={tmp_path}", "--json"]
    path = tmp_path / "tasks" / f"task{count // 4:06d}.json"
    sound = path.read_text()

    path.write_text(sound.replace('["a"]', "[]"))
    message = f"{path}: field 'Instances[0].output': empty list; allowed: a list of 1 or more"
    with pytest.raises(DataError, match=re.escape(message)):
        datasets.load_flat(cfg)
    assert audit.main(audited) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")

    path.write_text(sound)
    ids = [example.id for example in datasets.load_flat(cfg)]
    assert ids == [f"task{number:06d}-0" for number in range(count // 2)]
    assert audit.main(audited) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["tasks"]) == count // 2 and found["shared_inputs"] == []


def test_a_repeated_id_is_found_among_many_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"instruction": "i", "input": "", "output": "o"}
    ids = [*range(50_000), 7]
    path.write_text("\n".join(json.dumps(row | {"id": number}) for number in ids))
    with pytest.raises(DataError, match="id '7' occurs twice"):
        read_jsonl(path)
