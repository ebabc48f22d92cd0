"""Stages write the same files however often they are killed, and whatever the batch size."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import shutil
import time
from pathlib import Path

import pytest
from sampler import BUNDLED, Sampler, run

from t5x_ext import audit, progress
from t5x_ext.errors import ConfigError
from t5x_ext.generation import (
    Completion,
    InstructionSettings,
    ResponseSettings,
    TextModel,
    read_seeds,
    refill,
    write_instructions,
    write_responses,
)
from t5x_ext.generation.answering import response_request
from t5x_ext.generation.instructions import draw_demonstrations
from t5x_ext.generation.journal import check_same
from t5x_ext.generation.yields import yields_of
from t5x_ext.retrieval import BM25, Corpus, open_index

FILES = ("requests", "instructions", "rejected", "responses", "train")


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / f"{name}.jsonl").read_bytes() for name in FILES}


def records(directory: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (directory / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("unbroken")
    run(str(directory), 0.0, 8)
    return directory


def test_every_record_has_its_place(unbroken: Path) -> None:
    requests, kept, rejected = (records(unbroken, name) for name in FILES[:3])
    assert [record["request"] for record in requests] == list(range(len(requests)))
    ids = [record["id"] for record in kept + rejected]
    assert len(ids) == len(set(ids)) and [r["id"] for r in kept] == sorted(r["id"] for r in kept)
    assert len(kept) >= 60 and all("reason" not in record for record in kept)
    assert {"unparsed", "length", "similar"} <= {record["reason"] for record in rejected}
    assert all(record["max_rouge_l"] <= 0.6 for record in kept)
    responses, train = records(unbroken, "responses"), records(unbroken, "train")
    assert len(train) == 30 < len(responses)
    assert [r["id"] for r in responses] == [r["id"] for r in kept[: len(responses)]]
    for response in responses:
        weights = [passage["weight"] for passage in response["passages"]]
        assert not weights or sum(weights) == pytest.approx(1.0)
        assert weights == sorted(weights, reverse=True)
    measured = {record["id"]: record["log_prob"] for record in records(unbroken, "measurements")}
    assert measured == {r["id"]: measured[r["id"]] for r in responses}
    assert all(record["seconds"] >= 0 for record in records(unbroken, "measurements"))
    assert {row["round"] for row in train} == {1} and all(row["output"] for row in train)


def test_yields_are_those_that_the_stages_counted(unbroken: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    made, kept, _ = run(str(tmp_path), 0.0, 8)  # asks for nothing
    del made["requests"]
    train = tmp_path / "train.jsonl"
    yields = yields_of(train)
    assert yields is not None and (yields.tasks, yields.answers) == (made, kept)
    assert (yields.answers_at_limit, yields.prompts_cut) == (0, 0)

    responses = records(tmp_path, "responses")
    for response in responses[::3]:
        response |= {"finish": "length", "truncated": True}
    lines = [json.dumps(response) + "\n" for response in responses]
    (tmp_path / "responses.jsonl").write_text("".join(lines))
    share = len(responses[::3]) / len(responses)
    assert audit.main(["--synthetic", str(train)]) == 0
    shown = capsys.readouterr().out
    assert f"answers that ended at the most tokens allowed: {share:.1%}" in shown
    assert f"prompts cut to the model's context: {share:.1%}" in shown
    assert (
        f"tasks written: {made.total()}, of which kept: {made['kept'] / made.total():.1%}" in shown
    )
    assert f"answers written: {len(responses)}, of which kept: {30 / len(responses):.1%}" in shown
    shutil.copy(train, tmp_path / "others.jsonl")
    assert yields_of(tmp_path / "others.jsonl") is None


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ('{"tas', "cannot be read as JSON"),
        ('{"asked": 4}', "field 'tasks': missing; allowed: a string"),
        ('{"tasks": "../../etc"}', "allowed: a directory of the study's generated data"),
    ],
)
def test_a_damaged_made_json_is_one_line(unbroken, tmp_path, capsys, made, message) -> None:
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    (tmp_path / "made.json").write_text(made)
    assert audit.main(["--synthetic", str(tmp_path / "train.jsonl")]) == 1
    error = capsys.readouterr().err
    assert message in error and "made.json" in error and error.count("\n") == 1


def test_how_far_writing_is_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "QUIET_SECS", 0.01)
    run(str(tmp_path), 0.01, 4, tasks=20, rows=8)
    said = capsys.readouterr().err
    assert re.search(r"writing tasks: [1-9]\d*/20 tasks kept  ETA \ds\n", said)
    assert re.search(r"writing answers: [1-9]/8 answers kept  ETA \ds\n", said)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_files_do_not_depend_on_the_batch_size(
    unbroken: Path, tmp_path: Path, batch_size: int
) -> None:
    run(str(tmp_path), 0.0, batch_size)
    assert contents(tmp_path) == contents(unbroken)


def test_a_finished_run_asks_for_nothing(unbroken: Path, tmp_path: Path) -> None:
    for name, content in contents(unbroken).items():
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    *_, sampler = run(str(tmp_path), 0.0, 8)
    assert sampler.answered == 0 and contents(tmp_path) == contents(unbroken)


def test_files_that_end_at_any_byte_are_completed(unbroken: Path, tmp_path: Path) -> None:
    whole = contents(unbroken)
    rng = random.Random(0)
    for _ in range(20):
        # What follows from a file is never ahead of it on a local disk, but may be in a bucket.
        for name, content in whole.items():
            (tmp_path / f"{name}.jsonl").write_bytes(content[: rng.randrange(len(content) + 1)])
        run(str(tmp_path), 0.0, rng.choice([1, 5, 8]))
        assert contents(tmp_path) == whole


def test_runs_that_are_killed_twenty_times_over_end_alike(unbroken: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["t5x_ext.generation", "t5x_ext.retrieval.index"])
    rng = random.Random(1)
    killed = 0
    for trial in range(20):
        directory = tmp_path / str(trial)
        for batch_size in (8, rng.choice([1, 3, 8])):
            process = context.Process(target=run, args=(str(directory), 0.002, batch_size))
            process.start()
            while process.is_alive() and not (directory / "requests.jsonl").is_file():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.25))
            process.kill()
            process.join()
            killed += process.exitcode != 0
        run(str(directory), 0.0, rng.choice([2, 8]))
        assert contents(directory) == contents(unbroken)
    assert killed > 20  # of 40; the others had finished


def test_demonstrations_are_a_pure_function_of_seed_and_request() -> None:
    seeds = read_seeds(BUNDLED / "seeds.jsonl")
    settings = InstructionSettings("harbour", seed=3)
    drawn = [[s.id for s in draw_demonstrations(seeds, settings, n)] for n in range(200)]
    assert drawn == [[s.id for s in draw_demonstrations(seeds, settings, n)] for n in range(200)]
    assert all(len(set(ids)) == 3 for ids in drawn)
    uses = [sum(seed.id in ids for ids in drawn) for seed in seeds]
    assert min(uses) > 10 and max(uses) < 60  # 30 each on average
    other = InstructionSettings("harbour", seed=4)
    assert [s.id for s in draw_demonstrations(seeds, other, 0)] != drawn[0]


def test_other_settings_do_not_continue_a_file(unbroken: Path, tmp_path: Path) -> None:
    for name, content in contents(unbroken).items():
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    seeds = read_seeds(BUNDLED / "seeds.jsonl")
    text_model = Sampler().text_model()
    with pytest.raises(ConfigError, match=r"requests.jsonl: line 1: field 'seed': 7, but this"):
        write_instructions(tmp_path, seeds, text_model, InstructionSettings("harbour", seed=8), 9)
    with pytest.raises(ConfigError, match=r"instructions.jsonl: line .* is not what requests"):
        write_instructions(tmp_path, seeds, text_model, InstructionSettings("harbour", seed=7), 9)
    with pytest.raises(ConfigError, match=r"responses.jsonl: line 1: field 'method'"):
        write_responses(tmp_path, text_model, ResponseSettings("harbour"), 9)
    assert contents(tmp_path) == contents(unbroken)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_new_tokens": 48}, "field 'max_new_tokens': 512, but this run has 48; allowed: the"),
        ({"stops": ("zzz",)}, r"field 'stops': \['\\n###', .*, but this run has \['zzz'\]"),
        ({"domain": "railway"}, "field 'prompt': '[0-9a-f]{16}', but this run has '"),
        ({"num_passages": 2}, r"field 'method': '.*; 3 passages of .*has '.*; 2 passages"),
        ({"seed": 1}, "field 'seed': 0, but this run has 1"),
    ],
)
def test_answers_are_not_continued_under_other_settings(
    unbroken: Path, tmp_path: Path, changed: dict, message: str
) -> None:
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    index = open_index(Corpus(BUNDLED / "corpus.jsonl"))
    settings = ResponseSettings(**({"domain": "harbour", "num_passages": 3} | changed))
    with pytest.raises(ConfigError, match=f"responses.jsonl: line 1: {message}"):
        write_responses(tmp_path, Sampler().text_model(), settings, 40, index)
    assert contents(tmp_path) == contents(unbroken)


@pytest.mark.parametrize(("field", "value"), [("k1", 9.0), ("b", 0.1), ("query_words", 3)])
def test_answers_are_not_continued_with_passages_found_otherwise(
    unbroken: Path, tmp_path: Path, field: str, value: float
) -> None:
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    settings, was = ResponseSettings("harbour", num_passages=3), getattr(BM25(), field)
    index = open_index(Corpus(BUNDLED / "corpus.jsonl"), BM25(**{field: value}))
    with pytest.raises(ConfigError, match=f"'bm25.{field}': {was}, but this run has {value};"):
        write_responses(tmp_path, Sampler().text_model(), settings, 40, index)
    same = open_index(Corpus(BUNDLED / "corpus.jsonl"), BM25(shard_passages=20))
    write_responses(tmp_path, Sampler().text_model(), settings, 30, same)
    assert contents(tmp_path) == contents(unbroken)


def test_long_values_are_shown_from_where_they_differ() -> None:
    one, other = (f"Sampling({'x' * 70}, temperature={value}, top_k=0)" for value in (1.0, 0.7))
    with pytest.raises(ConfigError, match=r"temperature=1.0, top_k=0\)', but .*=0.7, top_k=0\)';"):
        check_same("f", {"method": one}, {"method": other}, "the same")


def test_tasks_are_not_continued_at_another_length(unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    seeds, text_model = read_seeds(BUNDLED / "seeds.jsonl"), Sampler().text_model()
    asking = InstructionSettings("harbour", seed=7, max_new_tokens=64)
    message = "requests.jsonl: line 1: field 'max_new_tokens': 2048, but this run has 64"
    with pytest.raises(ConfigError, match=message):
        write_instructions(tmp_path, seeds, text_model, asking, 100)
    assert contents(tmp_path) == contents(unbroken)


def test_tasks_may_be_edited_before_they_are_answered(unbroken: Path, tmp_path: Path) -> None:
    lines = (unbroken / "instructions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "instructions.jsonl").write_text("".join(lines[:20:2]).rstrip("\n"))
    text_model, settings = Sampler().text_model(), ResponseSettings("harbour")
    counts = write_responses(tmp_path, text_model, settings, 1000)
    assert sum(counts.values()) == 10
    (tmp_path / "instructions.jsonl").write_text("".join(lines[:21]))
    with pytest.raises(ConfigError, match="train.jsonl: line 1 is not what responses.jsonl gives"):
        write_responses(tmp_path, text_model, settings, 1000)
    (tmp_path / "train.jsonl").unlink()
    write_responses(tmp_path, text_model, settings, 1000)
    answered = [record["id"] for record in records(tmp_path, "responses")]
    assert len(set(answered)) == len(answered) == 21
    changed = lines[0].replace('"input": "', '"input": "other ')
    (tmp_path / "instructions.jsonl").write_text(changed)
    with pytest.raises(ConfigError, match="with another input than the tasks have now"):
        write_responses(tmp_path, text_model, settings, 1000)


def edited(lines: list[str], how: str) -> list[str]:
    own = json.dumps({"id": "own", "instruction": "Say what it is for.", "input": "fog bell"})
    changed = lines[4].replace('"input": "', '"input": "other ')
    return {
        "dropped": lines[:2] + lines[3:],
        "changed": [*lines[:4], changed, *lines[5:]],
        "added at the end": [*lines, own + "\n"],
        "added": [own + "\n", *lines],
        "own alone": [own + "\n"],
    }[how]


@pytest.mark.parametrize("how", ["dropped", "changed", "added at the end", "added", "own alone"])
def test_both_stages_go_on_with_tasks_that_were_edited(
    unbroken: Path, tmp_path: Path, capsys, how: str
) -> None:
    for name in FILES[:3]:
        shutil.copy(unbroken / f"{name}.jsonl", tmp_path)
    path = tmp_path / "instructions.jsonl"
    path.write_text("".join(edited(path.read_text().splitlines(keepends=True), how)))
    before = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in FILES[:3]}
    for _ in range(2):  # and again, once they are answered
        made, kept, sampler = run(str(tmp_path), 0.0, 8, tasks=100, rows=1000)
        assert capsys.readouterr().err.count(f"{path}: was edited: it stays as it is") == 1
        assert made["kept"] == kept.total() == len(before["instructions"].splitlines())
        assert {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in before} == before
    assert sampler.answered == 0


def test_tasks_of_ones_own_need_no_request(tmp_path: Path, capsys) -> None:
    path = tmp_path / "instructions.jsonl"
    path.write_text("".join(edited([""] * 5, "own alone")))
    made, kept, _ = run(str(tmp_path), 0.0, 8)
    assert made == {"kept": 1} and kept.total() == 1
    assert "was edited" in capsys.readouterr().err


def test_tasks_whose_answers_are_dropped_are_replaced(tmp_path: Path) -> None:
    seeds, text_model = read_seeds(BUNDLED / "seeds.jsonl"), Sampler().text_model()
    asking, answering = InstructionSettings("harbour"), ResponseSettings("harbour")
    tasks, counts = refill(
        lambda count: write_instructions(tmp_path, seeds, text_model, asking, count),
        lambda: write_responses(tmp_path, text_model, answering, 30),
        30,
    )
    assert counts["kept"] == 30 < sum(counts.values()) <= tasks["kept"]
    assert len(records(tmp_path, "train")) == 30


def test_a_model_that_writes_no_task_ends_at_the_limit(tmp_path: Path) -> None:
    silent = TextModel(
        lambda requests: enumerate([Completion("", "eos")] * len(requests)),
        lambda text: len(text.split()),
        1000,
        "silent",
        "greedy",
    )
    seeds = read_seeds(BUNDLED / "seeds.jsonl")
    settings = InstructionSettings("harbour", max_requests=5)
    counts = write_instructions(tmp_path, seeds, silent, settings, 1)
    assert counts == {"requests": 5, "unparsed": 5}
    found = refill(
        lambda count: write_instructions(tmp_path, seeds, silent, settings, count),
        lambda: pytest.fail("there is nothing to answer"),
        4,
    )
    assert found == (counts, {})
    with pytest.raises(ConfigError, match="holds no task"):
        write_responses(tmp_path, silent, ResponseSettings("harbour"), 1)


def test_a_second_run_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    seeds, settings = read_seeds(BUNDLED / "seeds.jsonl"), InstructionSettings("harbour")

    def intrude(requests):
        write_instructions(tmp_path, seeds, Sampler().text_model(), settings, 1)
        return []

    text_model = TextModel(intrude, lambda text: 1, 1000, "m", "greedy")
    with pytest.raises(ConfigError, match="is in use by another run"):
        write_instructions(tmp_path, seeds, text_model, settings, 1)


def test_a_wrong_line_in_the_middle_is_named_and_nothing_is_lost(
    unbroken: Path, tmp_path: Path
) -> None:
    lines = (unbroken / "requests.jsonl").read_bytes().splitlines(keepends=True)
    damaged = b"".join([lines[0], lines[1][:30] + b"\n", *lines[2:]])
    (tmp_path / "requests.jsonl").write_bytes(damaged)
    seeds, settings = read_seeds(BUNDLED / "seeds.jsonl"), InstructionSettings("harbour", seed=7)
    with pytest.raises(ConfigError, match="requests.jsonl: line 2: not JSON"):
        write_instructions(tmp_path, seeds, Sampler().text_model(), settings, 9)
    assert (tmp_path / "requests.jsonl").read_bytes() == damaged


def test_an_answer_ends_where_a_model_begins_to_answer_again(tmp_path: Path) -> None:
    task = {"id": "t0", "instruction": "Say what it is for.", "input": "fog bell"}
    (tmp_path / "instructions.jsonl").write_text(json.dumps(task) + "\n")

    def repeat(requests):
        yield 0, Completion("It warns ships.\n\nOutput:\nIt warns ships.\n\nOutput:\nIt", "length")

    text_model = TextModel(repeat, lambda text: len(text.split()), 1000, "m", "greedy")
    assert write_responses(tmp_path, text_model, ResponseSettings("harbour"), 1) == {"kept": 1}
    [record] = records(tmp_path, "responses")
    assert (record["output"], record["finish"]) == ("It warns ships.", "stop")
    other = ResponseSettings("harbour", stops=["\n###"])
    assert response_request(other, text_model, task, [], 0)[0].stops == ("\n###",)
