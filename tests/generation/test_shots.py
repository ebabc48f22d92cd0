"""Questions after demonstrations: what is shown, what is lost, what ends an answer."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from sampler import BUNDLED, Sampler

from t5x_ext import progress
from t5x_ext.decoding import Greedy, LimitByKind
from t5x_ext.errors import ConfigError
from t5x_ext.generation import TextModel, read_evaluation, read_seeds
from t5x_ext.generation.audit import SyntheticRow, audit_rows, verb_noun
from t5x_ext.generation.evaluation import EvaluationSettings, ask, demonstrations, write_predictions
from t5x_ext.metrics.predictions import read_predictions
from t5x_ext.retrieval import Corpus

SEEDS = read_seeds(BUNDLED / "seeds.jsonl")
ROWS = read_evaluation(BUNDLED / "evaluation" / "harbour_cargo.jsonl")


def text_model(max_tokens: int = 1000) -> TextModel:
    return dataclasses.replace(Sampler().text_model(), max_tokens=max_tokens)


def test_demonstrations_are_the_tasks_seeds_in_the_order_of_their_ids() -> None:
    shown = demonstrations("harbour_cargo", SEEDS[::-1], 5)
    own = [seed for seed in SEEDS if seed.task == "harbour_cargo"]
    assert [demo.input for demo in shown] == [seed.input for seed in own]
    assert {demo.instruction for demo in shown} == {ROWS[0].definition}
    with pytest.raises(ConfigError, match="SHOTS: 6, but task 'harbour_cargo' has 5 seeds"):
        demonstrations("harbour_cargo", SEEDS, 6)


def test_a_prompt_that_does_not_fit_loses_demonstrations_from_the_front() -> None:
    settings = EvaluationSettings(shots=5, max_new_tokens=8)
    shown = demonstrations("harbour_cargo", SEEDS, 5)
    whole = ask(ROWS[0], shown, settings, text_model())
    assert (whole.shown, whole.lost, whole.truncated) == (5, 0, False)
    room = len(whole.prompt.split()) + 8
    fewer = ask(ROWS[0], shown, settings, text_model(room - 1))
    assert (fewer.shown, fewer.lost) == (4, 1)
    assert whole.prompt.endswith(fewer.prompt) and shown[0].input not in fewer.prompt
    alone = ask(ROWS[0], [], settings, text_model()).prompt
    short = ask(ROWS[0], shown, settings, text_model(len(alone.split()) + 8 - 3))
    assert (short.shown, short.lost, short.truncated) == (0, 5, True)
    assert ROWS[0].definition in short.prompt and short.prompt.endswith("### Response:")
    with pytest.raises(ConfigError, match=r"harbour_cargo/harbour_cargo-0: has \d+ tokens"):
        ask(ROWS[0], shown, settings, text_model(30))


def test_answers_end_where_the_template_says() -> None:
    assert EvaluationSettings("ss.none").stops == ("###", "\n\n")
    assert EvaluationSettings("alpaca").stops == ("###",)
    assert EvaluationSettings("alpaca", stop=["\n"]).stops == ("\n",)
    for wrong in ("###", [""], [5]):
        with pytest.raises(ConfigError, match="EvaluationSettings.stop: .*; allowed: a list of"):
            EvaluationSettings(stop=wrong)
    with pytest.raises(TypeError, match="decoding"):  # that is the text model's
        EvaluationSettings(decoding=Greedy())
    assert EvaluationSettings().limit("qa_long") == 256 and EvaluationSettings().limit("ner") == 128
    by_kind = EvaluationSettings(max_new_tokens=LimitByKind(20, 30, ["ner"]))
    assert (by_kind.limit("qa_long"), by_kind.limit("ner")) == (20, 30)


def test_how_far_answering_is_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "QUIET_SECS", 0.01)
    slow = dataclasses.replace(Sampler(0.02).text_model(), max_tokens=1000)
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, ROWS, SEEDS, slow, EvaluationSettings("ss.none"), 2)
    assert re.search(r"predictions.jsonl: 4/6 questions  ETA \ds\n", capsys.readouterr().err)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_predictions_are_resumed_at_any_byte_and_can_be_scored(
    tmp_path: Path, batch_size: int
) -> None:
    settings = EvaluationSettings("ss.none", shots=1)
    path = tmp_path / "predictions.jsonl"
    counts = write_predictions(path, ROWS, SEEDS, text_model(), settings, batch_size)
    whole = path.read_bytes()
    assert counts["rows"] == 6 == counts["eos"] + counts["stop"] + counts["length"]
    for end in range(0, len(whole), 397):
        path.write_bytes(whole[:end])
        assert write_predictions(path, ROWS, SEEDS, text_model(), settings, 5) == counts
        assert path.read_bytes() == whole
    rows = read_predictions(path)
    assert [row.id for row in rows] == [row.id for row in ROWS]
    assert rows[0].inputs.count("\nOutput:") == 2
    labels = json.loads(whole.splitlines()[0])["labels"]
    assert labels == ["container", "dry bulk", "liquid bulk", "passenger"]
    with pytest.raises(ConfigError, match="line 1: field 'inputs'"):
        write_predictions(path, ROWS, SEEDS, text_model(), EvaluationSettings("ss.none"))
    other = EvaluationSettings("ss.none", shots=1, stop=["###"])
    with pytest.raises(ConfigError, match="field 'stops'"):
        write_predictions(path, ROWS, SEEDS, text_model(), other)
    shorter = EvaluationSettings("ss.none", shots=1, max_new_tokens=8)
    with pytest.raises(ConfigError, match="'max_new_tokens': 128, but this run has 8; allowed"):
        write_predictions(path, ROWS, SEEDS, text_model(), shorter)


def test_the_given_seeds_and_evaluation_sets_are_read(specialization_dir: Path) -> None:
    data = specialization_dir / "data"
    for domain, count in (("biomedicine", 80), ("finance", 90)):
        seeds = read_seeds(data / "seeds" / f"{domain}.jsonl")
        assert len(seeds) == count
        for file in sorted((data / "eval" / domain).glob("*.jsonl")):
            rows = read_evaluation(file)
            assert {row.task for row in rows} == {file.stem} and len(rows) >= 82
            shown = demonstrations(file.stem, seeds, 5)
            assert {demo.instruction for demo in shown} == {rows[0].definition}
    banking = read_evaluation(data / "eval" / "finance" / "banking77.jsonl")
    assert all(len(row.labels) == 77 and row.references[0] in row.labels for row in banking)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"instruction": "Do.", "input": "x"}', "field 'output': missing"),
        ('{"instruction": "Do.", "input": "x", "output": " "}', "field 'output': ' '"),
        ('{"instruction": "Do.", "input": "x", "out', "line 2: not JSON"),
        ('{"id": "a", "instruction": "Do.", "input": "", "output": "y"}', "'a' occurs twice"),
        (r'{"instruction": "\ud800", "input": "", "output": "y"}', r"line 2: '\\ud800' is half"),
    ],
)
def test_a_bad_seed_is_one_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"id": "a", "instruction": "Do it.", "input": "x", "output": "y"}\n' + line)
    with pytest.raises(ConfigError, match=message) as caught:
        read_seeds(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": ["test"]}, "line 1: field 'split': .'test'."),
        ({"split": None}, "line 1: field 'split': missing"),
        ({"split": "train"}, "no row of split 'test'; allowed"),
        ({"references": ["now", None]}, "line 1: field 'references'"),
        ({"input": "\ud800"}, r"line 1: '\\ud800' is half of a surrogate pair"),
    ],
)
def test_a_bad_question_is_one_line(tmp_path: Path, fields: dict, message: str) -> None:
    path = tmp_path / "eval.jsonl"
    row = {"id": "a", "instruction": "Do it.", "input": "x", "references": ["y"]}
    path.write_text(json.dumps(row | fields))
    with pytest.raises(ConfigError, match=message) as caught:
        read_evaluation(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_planted_leak_is_found_with_both_texts() -> None:
    leak = ROWS[1].input + " Then " + ROWS[4].input + " " + ROWS[0].input
    rows = [
        SyntheticRow("good", "Say what the ship carries.", "It carries salt.", "salt"),
        SyntheticRow("bad", "Say what the ship brings.", "A note. " + ROWS[3].input, leak),
    ]
    found = audit_rows(rows, ROWS, SEEDS, [("p", f"so: {ROWS[5].input.lower()}"), ("q", "salt")])
    shared = {(each["id"], each["field"]): each for each in found["shared"]}
    assert set(shared) == {("bad", "input"), ("bad", "output"), ("p", "passage")}
    assert shared["bad", "input"]["evaluation_id"] == ROWS[3].id
    assert shared["bad", "input"]["evaluation_text"] == ROWS[3].input
    assert shared["bad", "input"]["text"] == rows[1].input
    assert len(shared["bad", "input"]["words"].split()) == 13


def test_the_command_shows_a_leak_and_what_it_leaks(tmp_path: Path, capsys) -> None:
    from t5x_ext.audit import main

    path = tmp_path / "train.jsonl"
    row = {"id": "r1", "instruction": "Say it again.", "input": ROWS[3].input, "output": "ok"}
    path.write_text(json.dumps(row) + "\n")
    evaluation = str(BUNDLED / "evaluation")
    assert main(["--synthetic", str(path), "--evaluation", evaluation]) == 0
    shown = capsys.readouterr().out
    assert "r1 input, harbour_cargo/harbour_cargo-3 (1 row has these words" in shown
    assert shown.count(ROWS[3].input) == 2
    assert main(["--synthetic", str(path), "--evaluation", evaluation, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shared"][0]["id"] == "r1"
    path.write_text('{"instruction": "Say it again.", "input": "x"}\n')
    assert main(["--synthetic", str(path)]) == 1
    assert "record 1: field 'output': not a text" in capsys.readouterr().err


def test_boilerplate_is_told_from_a_copied_text() -> None:
    phrase = "choose the one option that answers the question as it stands in the text"
    rows = [dataclasses.replace(row, input=f"{phrase}: {row.input}") for row in ROWS]
    written = SyntheticRow("a", "Do what is asked.", f"{phrase} below", "x")
    [shared] = audit_rows([written], rows)["shared"]
    assert shared["evaluation_rows"] == 6
    copied = dataclasses.replace(written, input=rows[3].input)
    [shared] = audit_rows([copied], rows)["shared"]
    assert shared["evaluation_rows"] == 1 and shared["evaluation_id"] == ROWS[3].id


def test_the_bundled_data_does_not_leak_into_its_evaluation() -> None:
    rows = [SyntheticRow(s.id, s.instruction, s.input, s.output) for s in SEEDS]
    evaluation = [
        row
        for file in sorted((BUNDLED / "evaluation").glob("*.jsonl"))
        for row in read_evaluation(file)
    ]
    passages = [(p.id, p.whole) for *_, p in Corpus(BUNDLED / "corpus.jsonl").scan()]
    assert (len(rows), len(passages), len(evaluation)) == (20, 60, 24)
    assert audit_rows(rows, evaluation, passages=passages)["shared"] == []
    assert {len(demonstrations(row.task, SEEDS, 5)) for row in evaluation} == {5}


def test_repeated_rows_and_copied_seeds_are_listed() -> None:
    seed = SEEDS[0]
    rows = [
        SyntheticRow("a", "List the ships.", "One", "x"),
        SyntheticRow("b", "list  the ships.", "Two", "x"),
        SyntheticRow("c", "List the ships.", "two", "y"),
        SyntheticRow("d", seed.instruction, seed.input, "z"),
    ]
    found = audit_rows(rows, seeds=SEEDS)
    assert found["duplicates"] == {
        "instruction": [["a", "b", "c"]],
        "input": [["b", "c"]],
        "both": [["b", "c"]],
    }
    assert [copy["field"] for copy in found["seed_copies"]] == ["instruction", "input"]
    assert found["openings"][0] == {"text": "list the", "rows": 3, "share": 0.75}
    assert found["verb_nouns"][0]["text"] == "list ships"
    assert found["words"]["instruction"]["p50"] == 3.0


@pytest.mark.parametrize(
    ("instruction", "pair"),
    [
        ("Identify the rare diseases mentioned in the text.", ("identify", "diseases")),
        ("Write a short summary of the abstract.", ("write", "summary")),
        ("Given the note, list all drugs that it names.", ("list", "drugs")),
        (
            "In this task, you are given a sentence. Classify its sentiment.",
            ("classify", "sentiment"),
        ),
        ("What is the mechanism of action?", ("what", "mechanism")),
        ("Summarise.", ("summarise", "")),
        ("12?", ("", "")),
    ],
)
def test_verbs_and_nouns(instruction: str, pair: tuple[str, str]) -> None:
    assert verb_noun(instruction) == pair
