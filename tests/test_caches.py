"""What is kept in the local cache: made once and whole, and a line where it cannot be."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from t5x_ext import caches, terminal
from t5x_ext.data import stores
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError
from t5x_ext.retrieval import Corpus, open_index

IDS = np.array([3, 1], np.int32)
EXAMPLE = Example("e-0", "task", "", IDS, (IDS,), "text", ("text",), False)


def write(directory: Path) -> None:
    (directory / "about").write_text("whole")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_said_in_one_line(tmp_path, monkeypatch, caplog, number) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(number, f"no locks here, {number}")

    monkeypatch.setattr(fcntl, "flock", refuse)
    caches.make_once(tmp_path / "kind" / "made", "about", write)
    assert (tmp_path / "kind" / "made" / "about").read_text() == "whole"
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{tmp_path}/kind: its file system has no locks (no locks here")


def test_without_locks_the_first_that_is_done_counts(tmp_path, monkeypatch) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(errno.ENOLCK, "no locks at all")

    def write_second(directory: Path) -> None:
        caches.make_once(place, "about", write)
        (directory / "about").write_text("second")

    monkeypatch.setattr(fcntl, "flock", refuse)
    place = tmp_path / "made"
    caches.make_once(place, "about", write_second)
    assert (place / "about").read_text() == "whole"
    assert not list(tmp_path.glob("*.unfinished-*"))


def test_others_wait_for_whoever_makes_it(tmp_path) -> None:
    made = []

    def make(directory: Path) -> None:
        made.append(directory)
        write(directory)

    threads = [
        threading.Thread(target=caches.make_once, args=(tmp_path / "made", "about", make))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_cache_that_is_a_file_is_one_line(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path / "file"))
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(json.dumps({"id": "a", "text": "heron"}) + "\n")
    with pytest.raises(ConfigError, match=r"file/retrieval/\w+: cannot be written \(Not a dir"):
        open_index(Corpus(corpus))
    path = stores.store_path("task", "", 0, "")
    with pytest.raises(ConfigError, match=r"file/examples/.*: cannot be written \(Not a dir"):
        stores.build_store(path, "task", [EXAMPLE])


def test_what_is_in_the_way_is_one_line(tmp_path) -> None:
    (tmp_path / "made").touch()
    with pytest.raises(ConfigError, match=r"made: cannot be written \(Not a directory"):
        caches.make_once(tmp_path / "made", "about", write)
    assert [path.name for path in tmp_path.glob("made.*")] == ["made.lock"]


def test_a_store_of_any_name_fits_a_file_system(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path))
    path = stores.store_path("\N{SNOWMAN}" * 200, "", 10**6, "0" * 64)
    assert len(os.fsencode(path.name)) < 180
    assert len(stores.build_store(path, "task", [EXAMPLE])) == 1


@pytest.mark.parametrize(
    "number", [errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP]
)
def test_a_path_that_cannot_be_used_is_one_line(number: int, capsys) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "here")

    assert terminal.exit_status(fail) == 1
    assert capsys.readouterr().err == f"error: here: {os.strerror(number)}\n"
