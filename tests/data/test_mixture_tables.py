"""Before its first step a run says what it is trained on."""

from __future__ import annotations

import numpy as np
import pytest

from t5x_ext import train as train_command
from t5x_ext.data.mixture_tables import share_of_sources, source_lines
from t5x_ext.data.records import Example
from t5x_ext.data.tables import in_memory


def examples(task: str, count: int, length: int, targets: int = 1) -> list[Example]:
    ids = np.arange(length, dtype=np.int32)
    return [
        Example(f"{task}-{i}", task, "", ids, (ids[:2],) * targets, "", ("x",), False)
        for i in range(count)
    ]


def test_sources_of_one_task_are_gone_through_equally_often() -> None:
    rows = [*examples("generic", 30, 10), *examples("jfleg", 10, 5, targets=4)]
    generic, jfleg = share_of_sources([in_memory("writing.mixed", rows, 1.0)], epochs=2.5)
    assert (generic.rows, generic.tokens, generic.share, generic.passes) == (30, 360, 0.75, 2.5)
    assert (jfleg.rows, jfleg.tokens, jfleg.share, jfleg.passes) == (10, 70, 0.25, 2.5)


def test_shares_of_a_mixture_repeat_the_smaller_source() -> None:
    members = [
        in_memory("a", examples("a", 30, 4), 0.5),
        in_memory("b", examples("b", 10, 4), 0.5),
        in_memory("empty", [], 0.5),
    ]
    a, b = share_of_sources(members, epochs=1)
    assert (a.share, b.share) == (0.5, 0.5)
    assert a.passes == pytest.approx(20 / 30)
    assert b.passes == 2


def test_the_table_has_a_line_for_each_source_up_to_twenty() -> None:
    rows = [row for number in range(22) for row in examples(f"task{number}", 1, 2)]
    lines = source_lines(share_of_sources([in_memory("many", rows, 1.0)], epochs=1))
    assert lines[0].split() == ["source", "rows", "tokens", "share", "passes"]
    assert lines[1].split() == ["task0", "1", "4", "4.5%", "1.00"]
    assert lines[-1] == "... and 2 more sources"


def test_only_the_process_that_speaks_looks_at_all_examples(monkeypatch) -> None:
    monkeypatch.setattr(train_command.multihost, "is_primary", lambda: False)

    class Untouched:
        @property
        def members(self) -> None:
            raise AssertionError("looked at")

    train_command._tell_sources(Untouched(), 1)
