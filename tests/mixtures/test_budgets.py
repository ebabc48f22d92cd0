"""Budgets: names, nesting, independence of order, and short tasks."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.budgets import Budget, parse_budget, select
from mixtures.errors import DataError

IDS = [f"task1-{k}" for k in range(200)]


@pytest.mark.parametrize(
    ("value", "name"),
    [(10, "n10"), ("10", "n10"), ("n10", "n10"), ("n1000", "n1000"), ("p1", "p1"), ("all", "all")],
)
def test_names(value, name):
    assert parse_budget(value).name == name
    assert parse_budget(name) == parse_budget(value) == parse_budget(parse_budget(value))


@pytest.mark.parametrize(
    "value", [0, -1, "n0", "p0", "p101", "1%", "", "ALL", "n1e3", 10.0, True, None, "10 ", "n٣"]
)
def test_wrong_names(value):
    with pytest.raises(DataError, match=r"^budget .*; allowed: a count such as 100 or 'n100'"):
        parse_budget(value)


@pytest.mark.parametrize(
    ("name", "available", "count"),
    [("p1", 1, 1), ("p1", 99, 1), ("p1", 250, 2), ("p100", 7, 7), ("all", 7, 7), ("n9", 7, 9)],
)
def test_count(name, available, count):
    assert parse_budget(name).count(available) == count


@given(
    count=st.integers(1, 300),
    small=st.integers(1, 300),
    large=st.integers(1, 300),
    seed=st.integers(0, 5),
    order=st.sampled_from(["seeded", "release"]),
)
def test_budgets_nest(count, small, large, seed, order):
    ids = [f"i{k}" for k in range(count)]
    small, large = sorted((min(small, count), min(large, count)))
    chosen = select("t", ids, small, seed, order)
    assert len(chosen) == small
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(select("t", ids, large, seed, order))
    assert select("t", ids, "all", seed, order) == tuple(range(count))
    assert len(select("t", ids, "p1", seed, order)) == max(1, count // 100)


def test_seeded_choice_is_fixed():
    """The same on every machine and in every version: these indices must never change."""
    assert select("task1", IDS, 5) == (63, 78, 79, 106, 185)
    assert select("task1", IDS, 5, seed=1) != select("task1", IDS, 5)
    assert select("task2", IDS, 5) != select("task1", IDS, 5)


def test_seeded_choice_does_not_depend_on_file_order():
    chosen = {IDS[index] for index in select("task1", IDS, 50)}
    backwards = IDS[::-1]
    assert {backwards[index] for index in select("task1", backwards, 50)} == chosen


def test_seeded_choice_is_even():
    """Over many seeds each instance is chosen about equally often: 10 of 200, 2000 times."""
    counts = [0] * len(IDS)
    for seed in range(2000):
        for index in select("task1", IDS, 10, seed):
            counts[index] += 1
    assert sum(counts) == 20_000
    assert 60 < min(counts) and max(counts) < 145  # Mean 100, standard deviation under 10.


def test_release_order_takes_the_first():
    assert select("task1", IDS, "n3", seed=9, order="release") == (0, 1, 2)


def test_short_task_gives_all_and_one_line(caplog):
    for _ in range(3):
        assert select("short_task", IDS[:88], 100) == tuple(range(88))
    assert select("empty_task", [], "all") == ()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.messages[0] == (
        "task 'short_task': budget n100 asks for more than the 88 training instances available; "
        "all of them are taken"
    )
    assert caplog.messages[1] == "task 'empty_task': no training instances, whatever the budget"


def test_exact_budget_is_not_short(caplog):
    assert select("exact_task", IDS, Budget("n", 200)) == tuple(range(200))
    assert not caplog.records


def test_wrong_order():
    with pytest.raises(DataError, match="budget order 'random'; allowed: seeded, release"):
        select("task1", IDS, 1, order="random")
