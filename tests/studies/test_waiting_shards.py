"""A shard whose data is written by an adapter that another shard tunes."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from t5x_ext.errors import TryAgain
from t5x_ext.locks import DirectoryInUse, DirectoryLock
from t5x_ext.studies import (
    store,
    waiting,
)
from t5x_ext.studies.generation import Generation
from t5x_ext.studies.initial_models import InitialModels
from t5x_ext.studies.recipes import InitialModel

WRITER = "ss_r1_docs5 10 0"  # key of the adapter that writes round 2
ROUND_2 = {"ss_r2", "ss_r2_same", "ss_r2_greedy"}


class Rows(Generation):
    """Rows that are there as soon as they may be written."""

    def make(self, name: str) -> None:
        directory = store.generated_dir(self.study_dir, self.keys.rows(name))
        directory.mkdir(parents=True, exist_ok=True)
        store.write_json(directory / store.MADE, {"asked": self.wanted[name]})


@pytest.fixture
def shard(tmp_path: Path, harbour: Any) -> Any:
    """The generated data of a study, and all of its cells, those of round 2 first."""
    keys, wanted, cells = harbour
    unused: Any = None  # what has models
    return (keys, wanted, unused, unused, epath.Path(tmp_path), {WRITER: "2/3"}), cells[::-1]


def test_it_does_all_else_first_and_then_says_what_to_run_again(shard: Any) -> None:
    settings, cells = shard
    done: list[str] = []

    def run(rows: Rows) -> None:
        for some in rows.waves(cells):
            done.extend(cell.arm.name for cell in some)

    said = r"its writer, ss_r1_docs5, is tuned by shard 2/3, .*give the same command again"
    with pytest.raises(TryAgain, match=said):
        run(Rows(*settings))
    assert set(done) == {cell.arm.name for cell in cells} - ROUND_2
    assert len(done) == len(cells) - len(ROUND_2)
    store.adapter_dir(settings[4], WRITER).mkdir(parents=True)  # that shard has run
    done.clear()
    run(Rows(*settings))
    assert set(done[-3:]) == ROUND_2 and len(done) == len(cells)


def test_a_wave_asks_storage_for_each_file_twice_at_most(shard: Any, monkeypatch) -> None:
    settings, cells = shard
    store.adapter_dir(settings[4], WRITER).mkdir(parents=True)
    read, asked = store.rows_asked, Counter[str]()

    def count(directory: epath.Path) -> int:
        asked[directory.name] += 1
        return read(directory)

    monkeypatch.setattr(store, "rows_asked", count)
    for _ in Rows(*settings).waves(cells * 3):
        # Before rows are written, and after.
        assert max(asked.values(), default=0) <= 2
        asked.clear()


def test_it_goes_on_when_the_adapter_comes(shard: Any, monkeypatch, capsys) -> None:
    settings, cells = shard
    monkeypatch.setattr(waiting, "_WAIT_SECS", 0.01)
    adapter = store.adapter_dir(settings[4], WRITER)
    other = threading.Timer(0.5, lambda: adapter.mkdir(parents=True))
    other.start()
    waves = list(Rows(*settings, wait_minutes=1.0).waves(cells))
    other.join()
    assert {cell.arm.name for some in waves[2:] for cell in some} == ROUND_2
    (line,) = capsys.readouterr().err.splitlines()  # one a minute
    assert line.endswith("is tuned by shard 2/3; 0 of 1 minutes")


def test_a_wait_ends_that_many_minutes_after_the_last_sign(monkeypatch, capsys) -> None:
    clock = [0.0]

    def sleep(secs: float) -> None:
        clock[0] += 60.0

    monkeypatch.setattr(waiting.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(waiting.time, "sleep", sleep)
    patience = waiting.Patience(3, "start it")
    signs = iter([[], [], [500], [500], [500], [500]])
    with pytest.raises(
        TryAgain, match=r"^initial x, and not there after 3 minutes \(.*\); start it$"
    ):
        while True:
            patience.wait("initial x", next(signs))
    assert clock[0] == 5 * 60.0  # a sign came after two minutes
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("; ")[2] for line in lines] == [
        f"{minute} of 3 minutes" for minute in (0, 1, 0, 1, 2)
    ]


def test_a_shard_in_a_bucket_does_not_wait_for_ever_for_initial_models(tmp_path) -> None:
    initial = InitialModel("base", scope="pretune")
    models = InitialModels(
        {"base": initial}, {"base": "key"}, None, None, epath.Path(tmp_path), waits=True
    )
    with pytest.raises(
        TryAgain, match=r"^initial model base, which shard 1 makes, .*start shard 1"
    ):
        models.make("base")


def test_a_directory_is_held_after_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = DirectoryLock(tmp_path)

    def sleep(secs: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            holder.release()

    tries = 0
    monkeypatch.setattr(waiting.time, "sleep", sleep)
    with waiting.held(tmp_path, "initial model base"):
        assert tries == 3
        with pytest.raises(DirectoryInUse):
            DirectoryLock(tmp_path)
    DirectoryLock(tmp_path).release()
    said = capsys.readouterr().err
    assert said.count("waiting for initial model base: MODEL_DIR") == 1
