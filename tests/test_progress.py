"""Lines about work that takes minutes."""

from __future__ import annotations

import time

from t5x_ext import progress


def test_a_line_every_minute_says_how_far_the_work_is(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    notes = progress.MinuteNotes("tuning a", 1000, "steps")
    for done in range(1, 8):
        clock[0] += 25.0
        notes.count(done)
    assert capsys.readouterr().err.splitlines() == [
        "tuning a: 3/1,000 steps  ETA 6h55m",
        "tuning a: 6/1,000 steps  ETA 6h54m",
    ]


class Result:
    """An array that a device computes."""

    ready = False

    def is_ready(self) -> bool:
        return self.ready

    def block_until_ready(self) -> None:
        self.ready = True


def test_what_a_device_has_yet_to_compute_does_not_count(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    notes = progress.MinuteNotes("tuning a", 10, "steps")
    results = [Result() for _ in range(4)]
    for done, result in enumerate(results, start=1):
        clock[0] += 60.0
        notes.count(done, result)
        if done == 2:
            results[0].ready = True
    assert capsys.readouterr().err.splitlines() == [
        "tuning a: 0/10 steps",
        "tuning a: 0/10 steps",
        "tuning a: 1/10 steps  ETA 27m00s",
        "tuning a: 1/10 steps  ETA 36m00s",
    ]


def test_a_device_is_not_asked_for_more_than_a_few_units_ahead() -> None:
    notes = progress.MinuteNotes("tuning a", 10, "steps")
    results = [Result() for _ in range(7)]
    for done, result in enumerate(results, start=1):
        notes.count(done, result)
    assert [result.ready for result in results] == [True] * 3 + [False] * 4


def test_nothing_is_said_where_another_process_speaks(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress.multihost, "is_primary", lambda: False)
    notes = progress.MinuteNotes("decoding", 10, "rows")
    clock[0] = 100.0
    notes.count(5)
    for _ in progress.counted(range(3), "tokenising", "examples"):
        clock[0] += 100.0
    assert capsys.readouterr().err == ""


def test_what_an_earlier_run_did_says_nothing_of_this_ones_speed(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    notes = progress.MinuteNotes("writing", 100, "rows")
    clock[0] = 30.0
    notes.find(90)
    clock[0] = 90.0
    notes.count(92)
    assert capsys.readouterr().err == "writing: 92/100 rows  ETA 4m00s\n"


def test_a_unit_of_minutes_is_told_of_while_it_lasts(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "QUIET_SECS", 0.04)
    with progress.MinuteNotes("decoding", 10, "rows") as notes:
        notes.count(3)
        time.sleep(0.5)
    said = capsys.readouterr().err
    assert said.count("decoding: 3/10 rows  ETA ") >= 2
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
    list(progress.counted(iter([1, 2]), "reading", "rows"))


def test_items_are_counted_without_a_total(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "QUIET_SECS", 0.01)
    for _ in progress.counted(range(3), "reading", "rows"):
        time.sleep(0.02)
    assert "reading: 2 rows\n" in capsys.readouterr().err


def test_durations_are_short() -> None:
    assert [progress.duration(secs) for secs in (9.4, 250, 7500)] == ["9s", "4m10s", "2h05m"]
