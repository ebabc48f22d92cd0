"""A pipeline whose model is a script: what is kept, what is edited, and what does not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from sampler import BUNDLED, Sampler

from t5x_ext.errors import ConfigError
from t5x_ext.generation import (
    Completion,
    Generator,
    InstructionSettings,
    ResponseSettings,
    read_seeds,
)
from t5x_ext.generation.pipeline import Pipeline
from t5x_ext.generation.rounds import Round


class Script(Pipeline):
    """A pipeline of one generator in place of a model."""

    generator: Any = None

    def writers(self, number: int) -> tuple[Any, None]:
        return self, None


def scripted(directory: Path, generator: Generator, rows: int = 4, **changes: Any) -> Script:
    unused: Any = None
    made = Round(
        read_seeds(BUNDLED / "seeds.jsonl"),
        InstructionSettings("harbour", max_requests=5),
        ResponseSettings("harbour"),
        num_rows=rows,
    )
    pipeline = Script(epath.Path(directory), unused, dataclasses.replace(made, **changes))
    object.__setattr__(pipeline, "generator", lambda *how: generator)
    return pipeline


def saying(tasks: str, answer: str = "It warns ships.") -> Generator:
    """A model that writes one list and one answer."""

    def complete(requests: Any) -> Any:
        for place, request in enumerate(requests):
            is_list = request.contexts[0].endswith("4. Instruction:")
            yield place, Completion(tasks if is_list else answer, "eos")

    return Generator(complete, lambda text: len(text.split()), 1000, "script", "greedy")


TASK = " Say what a fog bell is for.\n4. Input:\nThe bell of the pier.\n"


def test_why_nothing_was_kept_is_told(tmp_path: Path) -> None:
    said = r"instructions.jsonl: no task was kept \(5 requests, 5 unparsed\)"
    for _ in range(2):
        with pytest.raises(ConfigError, match=said):
            scripted(tmp_path / "tasks", saying("word salad")).write_rows(1)
    with pytest.raises(ConfigError, match=r"train.jsonl: no row was kept \(1 colon\)"):
        scripted(tmp_path / "answers", saying(TASK, "It is:")).write_rows(1)


def test_rows_of_a_sampler_are_written_as_by_the_stages(tmp_path: Path) -> None:
    written = scripted(tmp_path, Sampler().generator(), 3).write_rows(1)
    assert written.counts["kept"] == 3 and written.path.name == "train.jsonl"
