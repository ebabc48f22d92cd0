"""What TASK_FEATURE_LENGTHS cuts is counted, wherever rows come from, and told in a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import seqio
import tensorflow as tf

import mixtures
from t5x_ext.data.cuts import Cuts, cut_lines, cuts_by_task
from t5x_ext.data.opening import load_examples, open_members

LENGTHS = {"inputs": 8, "targets": 4}
TOKENIZE = seqio.preprocessors.tokenize
# Tokens are bytes, and each text has an EOS: 7 and 3 bytes fit.
ROWS = [("a" * 7, "b" * 3), ("a" * 8, "b" * 3), ("a" * 7, "b" * 4), ("a" * 30, "b" * 30), ("", "")]
CUT = [(False, False), (True, False), (False, True), (True, True), (False, False)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path))


@pytest.fixture
def add_task() -> Iterator[Callable[..., str]]:
    names = []

    def add(name: str, *preprocessors: Any) -> str:
        def read(split: str, shuffle_files: bool) -> tf.data.Dataset:
            inputs, targets = map(list, zip(*ROWS, strict=True))
            return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": targets})

        names.append(name)
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(read, splits=("train",)),
            preprocessors=list(preprocessors),
            output_features={
                key: seqio.Feature(seqio.ByteVocabulary()) for key in ("inputs", "targets")
            },
        )
        return name

    yield add
    for name in names:
        seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize("end", ["append_eos", "append_eos_after_trim"])
def test_rows_of_seqio_tasks_tell_what_they_lost(add_task: Callable[..., str], end: str) -> None:
    name = add_task(f"cut_{end}", TOKENIZE, getattr(seqio.preprocessors, end))
    found = load_examples(name, "train", LENGTHS)
    assert [(one.truncated, one.target_truncated) for one in found] == CUT
    assert max(len(one.inputs) for one in found) == 8
    assert max(len(one.targets[0]) for one in found) == 4
    task = seqio.get_mixture_or_task(name)
    rows = task.get_dataset(LENGTHS, "train", shuffle=False).as_numpy_iterator()
    for one, row in zip(found, rows, strict=True):  # as SeqIO itself cuts them
        assert one.inputs.tolist() == row["inputs"].tolist()
        assert one.targets[0].tolist() == row["targets"].tolist()


def test_tokens_that_are_not_their_texts_start_were_not_cut(add_task: Callable[..., str]) -> None:
    def reverse(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return row | {"inputs": tf.reverse(row["inputs"], [0])[:8] + 1}

    name = add_task("spans", TOKENIZE, lambda rows: rows.map(reverse))
    assert not any(one.truncated for one in load_examples(name, "train", LENGTHS))


@pytest.mark.parametrize("use_cached_rows", [False, True])
def test_rows_of_ours_tell_what_they_lost_as_seqio_has_them(use_cached_rows: bool) -> None:
    from t5x_ext.data import examples, seqio_examples

    mixtures.configure()
    lengths = {"inputs": 48, "targets": 4}
    ((task, _), *_) = examples.tasks_of("superni.tk.def.held_in.n10", "train")
    found = list(examples.read_examples(task, "train", lengths))
    whole = list(examples.read_examples(task, "train", {"inputs": 4096, "targets": 4096}))
    for one, before in zip(found, whole, strict=True):
        assert one.truncated == (len(before.inputs) > 48)
        assert one.target_truncated == any(len(each) > 4 for each in before.targets)
        assert not before.truncated and not before.target_truncated
    if use_cached_rows:
        seqio_task = examples.as_seqio(task)
        same = seqio_examples.read_examples(seqio_task, "train", lengths)
        assert [(one.truncated, one.target_truncated) for one in same] == [
            (one.truncated, one.target_truncated) for one in found
        ]


@pytest.mark.parametrize("memory_limit_bytes", [1 << 29, 0])
def test_tables_count_what_was_cut(add_task: Callable[..., str], memory_limit_bytes: int) -> None:
    name = add_task("table", TOKENIZE, seqio.preprocessors.append_eos_after_trim)
    for _ in range(2):  # built, and opened
        member = open_members(name, "train", LENGTHS, memory_limit_bytes=memory_limit_bytes)[0]
        assert member.examples.cuts == {"table": Cuts(5, 2, 2)}


def test_prompts_and_targets_that_were_cut_have_a_line_each() -> None:
    cuts = {"a": Cuts(1000, 12, 3), "whole": Cuts(5, 0, 0), "b": Cuts(10, 0, 1)}
    assert cut_lines(cuts, LENGTHS, "train") == [
        "train: 12 of 1,015 prompts were cut to 8 tokens (TASK_FEATURE_LENGTHS); most in a "
        "(12 of 1,000)",
        "train: 4 of 1,015 targets were cut to 4 tokens (TASK_FEATURE_LENGTHS); most in b "
        "(1 of 10)",
    ]
    assert cut_lines({"b": Cuts(10, 0, 1)}, LENGTHS, "test") == [
        "test: 1 of 10 targets were cut to 4 tokens (TASK_FEATURE_LENGTHS)"
    ]
    assert cut_lines(cuts, None, "train") == []
    assert cut_lines({"whole": Cuts(5, 0, 0)}, LENGTHS, "train") == []


def test_examples_are_counted_by_task(add_task: Callable[..., str]) -> None:
    name = add_task("by_task", TOKENIZE, seqio.preprocessors.append_eos)
    assert cuts_by_task(load_examples(name, "train", LENGTHS)) == {"by_task": Cuts(5, 2, 2)}
