"""Truncation: what fits is untouched, the rest keeps its question."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixtures.errors import DataError
from mixtures.prompts import PROMPTS, get_prompt
from mixtures.records import Example, Row, rows
from mixtures.release import Release
from mixtures.splits import split_instances
from mixtures.truncation import GAP, fit

ROW = Row(
    task="t",
    category="C",
    id="i",
    definition=" ".join(f"def{k}" for k in range(20)),
    input=" ".join(f"in{k}" for k in range(40)),
    references=("y",),
    positive_examples=(Example("p1", "o1", "why 1"), Example("p2", "o2", "why 2")),
    negative_examples=(Example("n1", "m1", "not 1"), Example("n2", "m2", "not 2")),
)


def words(text: str) -> int:
    return len(text.split())


def test_what_fits_is_untouched_and_counted_once():
    calls = []

    def count(text: str) -> int:
        calls.append(text)
        return len(text)

    text = get_prompt("tk.def_pos2_neg2").render(ROW)
    fitted = fit(ROW, get_prompt("tk.def_pos2_neg2").render, len(text), count)
    assert fitted.text == text
    assert (fitted.tokens_before, fitted.truncated, fitted.dropped) == (len(text), False, ())
    assert calls == [text]


def test_order_of_what_is_dropped():
    """With a token less room at a time, parts go in the stated order."""
    render = get_prompt("ni_v1").render
    full = words(render(ROW))
    orders = [fit(ROW, render, limit, words).dropped for limit in range(full - 1, 4, -1)]
    longest = orders[-1]
    assert longest == (
        "negative_example_2",
        "negative_example_1",
        "explanations",
        "positive_example_2",
        "positive_example_1",
        "definition",
        "input",
    )
    assert all(order == longest[: len(order)] for order in orders)
    assert sorted(orders, key=len) == orders
    assert {len(order) for order in orders} == set(range(1, 8))


def test_examples_go_whole_and_only_as_many_as_needed():
    render = get_prompt("tk.def_pos2_neg2").render
    one_negative = replace(ROW, negative_examples=ROW.negative_examples[:1])
    fitted = fit(ROW, render, words(render(ROW)) - 1, words)
    assert (fitted.text, fitted.dropped) == (render(one_negative), ("negative_example_2",))
    bare = replace(ROW, negative_examples=(), positive_examples=ROW.positive_examples[:1])
    fitted = fit(ROW, render, words(render(bare)), words)
    assert fitted.text == render(bare)
    # This prompt shows no explanations, so none are said to be dropped.
    assert fitted.dropped == ("negative_example_2", "negative_example_1", "positive_example_2")


def test_dropped_explanations_leave_no_line():
    render = get_prompt("tk.def_pos2_expl").render
    fitted = fit(ROW, render, words(render(ROW)) - 1, words)
    assert fitted.dropped == ("explanations",)
    assert fitted.text == get_prompt("tk.def_pos2").render(ROW)


def test_definition_is_cut_from_its_end_between_words():
    render = get_prompt("tk.def").render
    fitted = fit(ROW, render, words(render(ROW)) - 7, words)
    assert fitted.dropped == ("definition",)
    assert fitted.text == render(replace(ROW, definition=" ".join(f"def{k}" for k in range(13))))


def test_input_is_cut_in_its_middle_between_words():
    fitted = fit(ROW, get_prompt("ql.io").render, 23, words)
    assert fitted.dropped == ("input",)
    head, tail = fitted.text.removeprefix("input: ").removesuffix("\noutput: ").split(GAP)
    names = [f"in{k}" for k in range(40)]
    head, tail = head.split(), tail.split()
    assert head == names[: len(head)] and tail == names[-len(tail) :]
    assert words(fitted.text) == 23 and abs(len(head) - len(tail)) <= 2


def test_text_without_spaces_is_cut_inside():
    fitted = fit(replace(ROW, input="天地玄黄" * 200 + "問？"), get_prompt("ql.io").render, 60, len)
    assert len(fitted.text) in (59, 60)
    assert fitted.text.endswith("玄黄問？\noutput: ") and GAP in fitted.text


def test_instruction_without_input_keeps_its_end():
    row = replace(ROW, input="", definition="Read this. " + "blah " * 500 + "Which one is it?")
    fitted = fit(row, get_prompt("alpaca").render, 40, words)
    assert fitted.dropped == ("definition",)
    assert fitted.text.endswith("Which one is it?\n\n### Response:")
    assert words(fitted.text) <= 40 and "Read this." in fitted.text


def test_trim_right_leaves_the_text():
    render = get_prompt("ql.def_pos2").render
    fitted = fit(ROW, render, 10, words, trim="right")
    assert (fitted.text, fitted.truncated, fitted.dropped) == (render(ROW), True, ("end",))


def test_unknown_trim():
    allowed = "allowed: keep_question, keep_last_example, right"
    with pytest.raises(DataError, match=f"trim 'left'; {allowed}"):
        fit(ROW, get_prompt("ql.io").render, 10, words, trim="left")


def cue_of(render) -> str:
    """What a prompt writes after the input. The sentinel ends in punctuation, as tk.* wants."""
    return render(replace(ROW, input="SENTINEL?")).rpartition("SENTINEL?")[2]


texts = st.text(
    st.characters(exclude_categories=("Cs",)) | st.sampled_from(" \n\t.?aé天\0\r"), max_size=120
)
filled = texts.filter(str.strip)
examples = st.lists(st.builds(Example, filled, filled, texts), max_size=3).map(tuple)
counters = st.sampled_from([len, words, lambda text: len(text.encode()), lambda t: len(t) // 3 + 1])


@settings(max_examples=300, deadline=None)
@given(
    # ss.instructions asks for tasks: its row has no question.
    name=st.sampled_from(sorted(PROMPTS.keys() - {"ss.instructions", "chat"})),
    row=st.builds(
        Row,
        task=st.just("task1_x"),
        category=st.just("C"),
        id=texts,
        definition=texts,
        input=filled,
        references=st.just(("y",)),
        positive_examples=examples,
        negative_examples=examples,
    ),
    max_tokens=st.integers(0, 600),
    count=counters,
)
def test_question_and_cue_survive(name, row, max_tokens, count):
    render = get_prompt(name).render
    before = row
    fitted = fit(row, render, max_tokens, count)
    assert row == before
    assert fitted.tokens_before == count(render(row))
    assert fitted.truncated == (fitted.tokens_before > max_tokens) == bool(fitted.dropped)
    if not fitted.truncated:
        assert fitted.text == render(row)
        return
    last = row.input.strip()[-1]
    cue = cue_of(lambda row_: render(replace(row_, id=row.id)))  # tk.mix and flan draw by id.
    assert fitted.text.endswith(cue)
    assert last in fitted.text.removesuffix(cue).rstrip()[-2:]  # tk.* may add a full stop.
    shortest = replace(row, definition="", input=last, positive_examples=(), negative_examples=())
    if count(render(shortest)) <= max_tokens:
        assert count(fitted.text) <= max_tokens


@pytest.mark.parametrize("limit", [512, 1024])
@pytest.mark.parametrize("name", ["ql.def_pos2", "tk.def_pos2_neg2", "cot"])
def test_real_tasks(superni_dir, name, limit):
    """The tasks of the paper's case study and the longest ones, at four characters a token."""
    release = Release(superni_dir)
    render = get_prompt(name).render
    cue = cue_of(render)
    calls = 0

    def count(text: str) -> int:
        nonlocal calls
        calls += 1
        return (len(text) + 3) // 4

    truncated = total = 0
    for task in release.names("test"):
        if not task.startswith(("task602_", "task1356_", "task1540_", "task233_", "task510_")):
            continue
        record = release.task(task)
        for row in rows(record, split_instances(record, "test").test):
            fitted = fit(row, render, limit, count)
            total += 1
            truncated += fitted.truncated
            assert count(fitted.text) <= limit
            assert fitted.text.endswith(cue)
            assert row.input.strip()[-15:] in fitted.text.removesuffix(cue).rstrip()[-16:]
    assert total == 484
    assert truncated > (400 if limit == 512 else 80)
    assert calls < total * 20
