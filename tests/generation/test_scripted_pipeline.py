"""A pipeline whose model is a script: what is kept, what is edited, and what does not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from sampler import BUNDLED, Sampler

from mixtures.specialization_prompts import instructions_prompt
from t5x_ext.errors import ConfigError, TryAgain
from t5x_ext.generation import (
    Completion,
    InstructionSettings,
    ResponseSettings,
    TextModel,
    read_evaluation,
    read_seeds,
    tuning,
    write_instructions,
    write_responses,
)
from t5x_ext.generation.pipeline import Pipeline
from t5x_ext.generation.rounds import Round
from t5x_ext.generation.yields import yields_of


class Script(Pipeline):
    """A pipeline with a scripted text model in place of a model."""

    text_model: Any = None

    def writers(self, number: int) -> tuple[Any, None]:
        return self, None


def scripted(directory: Path, text_model: TextModel, rows: int = 4, **changes: Any) -> Script:
    unused: Any = None
    made = Round(
        read_seeds(BUNDLED / "seeds.jsonl"),
        InstructionSettings("harbour", max_requests=5),
        ResponseSettings("harbour"),
        num_rows=rows,
    )
    pipeline = Script(epath.Path(directory), unused, dataclasses.replace(made, **changes))
    object.__setattr__(pipeline, "text_model", lambda *how: text_model)
    return pipeline


def saying(tasks: str, answer: str = "It warns ships.") -> TextModel:
    """A model that writes one list and one answer."""

    def complete(requests: Any) -> Any:
        for place, request in enumerate(requests):
            is_list = request.contexts[0].endswith("4. Instruction:")
            yield place, Completion(tasks if is_list else answer, "eos")

    return TextModel(complete, lambda text: len(text.split()), 1000, "script", "greedy")


TASK = " Say what a fog bell is for.\n4. Input:\nThe bell of the pier.\n"


def test_why_nothing_was_kept_is_told(tmp_path: Path) -> None:
    said = r"instructions.jsonl: no task was kept \(5 requests, 5 unparsed\)"
    for _ in range(2):
        with pytest.raises(ConfigError, match=said):
            scripted(tmp_path / "tasks", saying("word salad")).write_rows(1)
    with pytest.raises(ConfigError, match=r"train.jsonl: no row was kept \(1 colon\)"):
        scripted(tmp_path / "answers", saying(TASK, "It is:")).write_rows(1)


def test_a_task_that_does_not_fit_is_dropped_and_the_others_are_answered(tmp_path: Path) -> None:
    tasks = [
        {"id": f"t{n}", "instruction": f"Say {' '.join(['so'] * words)}.", "input": "a bell"}
        for n, words in enumerate((3, 2000, 4))
    ]
    lines = [json.dumps(task) + "\n" for task in tasks]
    (tmp_path / "instructions.jsonl").write_text("".join(lines))
    settings = ResponseSettings("harbour")
    for _ in range(2):  # resumed, too
        counts = write_responses(tmp_path, saying(""), settings, 3)
        assert counts == {"kept": 2, "too_long": 1}
        yields = yields_of(tmp_path / "train.jsonl")
        assert yields is not None and yields.answers == counts and yields.answers_at_limit == 0
    (tmp_path / "instructions.jsonl").write_text(lines[1])
    (tmp_path / "train.jsonl").unlink()
    assert write_responses(tmp_path, saying(""), settings, 3) == {"too_long": 1}


def test_the_longest_seeds_must_leave_room_for_tasks(tmp_path: Path) -> None:
    seeds = read_seeds(BUNDLED / "seeds.jsonl")
    longest = sorted(seeds, key=lambda seed: -len(f"{seed.instruction} {seed.input}".split()))[:3]
    asking = InstructionSettings("harbour", max_requests=5)
    shown = [(seed.instruction, seed.input) for seed in longest]
    words = len(instructions_prompt("harbour", shown).split())

    def ask(room: int, **changes: int) -> set[int]:
        model = dataclasses.replace(saying(TASK), max_tokens=words + room)
        settings = dataclasses.replace(asking, **changes)
        write_instructions(tmp_path / str(room), seeds, model, settings, 1)
        lines = (tmp_path / str(room) / "requests.jsonl").read_text().splitlines()
        return {json.loads(line)["max_new_tokens"] for line in lines}

    for room in (-1, 0, 1, 63):  # of a list, one token or a few are no more use than none
        with pytest.raises(
            ConfigError, match=rf"has {words} tokens; allowed: at most {words}|less"
        ):
            ask(room)
        assert not (tmp_path / str(room)).exists()
    assert min(ask(64)) >= 64
    assert ask(20, max_new_tokens=20) == {20}


class Counted:
    """A model of which nothing but the lengths of texts is known."""

    def __init__(self, max_tokens: int):
        self.counter = lambda: dataclasses.replace(saying(""), max_tokens=max_tokens)


def test_what_does_not_fit_is_refused_at_the_start(tmp_path: Path) -> None:
    rows = read_evaluation(BUNDLED / "evaluation" / "harbour_cargo.jsonl")
    rows[3] = dataclasses.replace(rows[3], definition="Say it " * 300)

    def check(max_tokens: int, *, max_new_tokens: int = 512, **what: bool) -> None:
        pipeline = scripted(tmp_path, saying(""), evaluation=rows)
        answering = dataclasses.replace(pipeline.round.answering, max_new_tokens=max_new_tokens)
        made = dataclasses.replace(pipeline.round, answering=answering)
        pipeline = dataclasses.replace(pipeline, base=Counted(max_tokens), round=made)
        none = dict.fromkeys(("writes", "answers", "evaluates"), False)
        pipeline.check_fits_context(**(none | what))

    with pytest.raises(ConfigError, match="a request that shows the seeds .* less 64 for tasks"):
        check(100, writes=True)
    with pytest.raises(ConfigError, match="max_new_tokens: 990; allowed: at most 9[0-9]{2}, what"):
        check(1000, max_new_tokens=990, answers=True)
    with pytest.raises(ConfigError, match=f"{rows[3].id}: has 6[0-9]{{2}} tokens without"):
        check(700, evaluates=True)
    check(1000, writes=True, answers=True, evaluates=True)
    check(100)


@pytest.mark.parametrize(
    ("shots", "message"),
    [((), r"SHOTS: \(\); allowed: numbers of demonstrations"), ((0, -1), "SHOTS: -1; allowed: 0")],
)
def test_numbers_of_demonstrations_are_checked_at_once(
    tmp_path: Path, shots: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(scripted(tmp_path, saying("")), shots=shots)


def test_tuning_on_too_few_rows_is_told(tmp_path: Path, capsys, monkeypatch) -> None:
    pipeline = scripted(tmp_path, saying(""), rows=5000)
    for module, name in ((tuning, "begin"), (tuning, "train_arguments")):
        monkeypatch.setattr(module, name, lambda *how: {"total_steps": 1})
    monkeypatch.setattr("t5x_ext.generation.pipeline.saved_steps", lambda path: ())
    rows = tmp_path / "round1" / "train.jsonl"
    rows.parent.mkdir()
    seed = {"instruction": "Say.", "input": "", "output": "x", "id": "s", "round": 0}
    rows.write_text(json.dumps(seed) + "\n")
    with pytest.raises(ConfigError, match="holds no row that was written; run the stage 'respo"):
        pipeline.tune(1, lambda **how: None)
    rows.write_text("".join(json.dumps(seed | {"round": n > 0}) + "\n" for n in range(13)))
    with pytest.raises(TryAgain):
        pipeline.tune(1, lambda **how: None)
    assert "round 1: tuned on 12 rows of 5,000: the stage 'resp" in capsys.readouterr().err


def test_rows_of_a_sampler_are_written_as_by_the_stages(tmp_path: Path) -> None:
    written = scripted(tmp_path, Sampler().text_model(), 3).write_rows(1)
    assert written.counts["kept"] == 3 and written.path.name == "train.jsonl"
