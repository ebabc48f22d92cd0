"""One round of self-specialization: what it is made from, and its two files for given models.

    round = Round(seeds, InstructionSettings("biomedical"), ResponseSettings("biomedical"))
    writers = ModelSource("llama-2-7b").open()
    write_rows(round, "runs/bio/round1", writer=writers[None], expert=writers[None])

In the first round the model itself writes and answers. In round r > 1 model r - 1 writes the tasks,
and answers them as the expert, with model r - 2 as the amateur.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from mixtures.records import Row
from mixtures.specialization.records import Seed
from t5x_ext import bounds, files
from t5x_ext.decoding import Contrastive, Greedy, Method, Sampling
from t5x_ext.errors import ConfigError
from t5x_ext.generation import instructions, responses
from t5x_ext.generation.answering import ResponseSettings
from t5x_ext.generation.instructions import INSTRUCTIONS, InstructionSettings
from t5x_ext.generation.refill import refill
from t5x_ext.generation.responses import TRAIN
from t5x_ext.generation.text_models import Writer
from t5x_ext.retrieval import Index


@dataclasses.dataclass(frozen=True)
class Round:
    """What a round is made from, whoever writes it.

    Attributes:
        seeds: demonstrations of the tasks that are asked for.
        asking: how tasks are asked for, and which are dropped.
        answering: how they are answered, and which answers are dropped.
        evaluation: rows that no task may repeat.
        index: of the corpus; None answers without passages.
        num_rows: rows to train on.
        instruction_decoding: how tasks are written; its seed is that of `asking`. The paper's.
        response_decoding: how answers are written; likewise.
        contrast: how an expert is set against an amateur; its `method` is `response_decoding`.
        batch_size: texts written at a time; no file depends on it.
    """

    seeds: Sequence[Seed]
    asking: InstructionSettings
    answering: ResponseSettings
    evaluation: Sequence[Row] = ()
    index: Index | None = None
    num_rows: int = 5000
    instruction_decoding: Sampling = Sampling(temperature=1.0, top_p=0.98)
    response_decoding: Greedy = Greedy()
    contrast: Contrastive = Contrastive()
    batch_size: int = 8

    def __post_init__(self) -> None:
        bounds.check_int("Round.num_rows", self.num_rows, 1)
        bounds.check_int("Round.batch_size", self.batch_size, 1, bounds.MAX_ROWS)
        for field in ("domain", "round"):
            asked, answered = getattr(self.asking, field), getattr(self.answering, field)
            if asked != answered:
                raise ConfigError(
                    f"Round: {field} is {asked!r} of `asking` and {answered!r} of `answering`; "
                    "allowed: the same"
                )

    @property
    def number(self) -> int:
        """Of the round, from 1."""
        return self.asking.round

    def numbered(self, number: int) -> Round:
        """The same as round `number`."""
        return dataclasses.replace(
            self,
            asking=dataclasses.replace(self.asking, round=number),
            answering=dataclasses.replace(self.answering, round=number),
        )

    def answering_method(self, contrasted: bool) -> Method:
        """How answers are decoded, against an amateur or not."""
        method = seeded(self.response_decoding, self.answering.seed)
        return dataclasses.replace(self.contrast, method=method) if contrasted else method


class Written(NamedTuple):
    """A file of a round.

    Attributes:
        path: the file.
        counts: of its records, 'kept' and dropped by reason, over all runs that wrote it.
    """

    path: epath.Path
    counts: Counter[str]


def write_instructions(
    round_: Round, writer: Writer, directory: files.StrPath, count: int | None = None
) -> Written:
    """Writes tasks into `directory`; see `instructions.write_instructions`.

    Args:
        round_: what from.
        writer: the model.
        directory: of the round; other rounds have their own. What is there already is gone on with.
        count: tasks to keep; None for as many as rows are wanted.
    """
    method = seeded(round_.instruction_decoding, round_.asking.seed)
    counts = instructions.write_instructions(
        directory,
        round_.seeds,
        writer.text_model(method, round_.batch_size),
        round_.asking,
        round_.num_rows if count is None else count,
        round_.evaluation,
        round_.batch_size,
    )
    return Written(files.path(directory) / INSTRUCTIONS, counts)


def write_responses(
    round_: Round,
    expert: Writer,
    amateur: Writer | None,
    directory: files.StrPath,
    tasks: files.StrPath | None = None,
) -> Written:
    """Answers tasks into `directory`, up to `num_rows` rows; see `responses.write_responses`.

    Args:
        round_: what from.
        expert: the model.
        amateur: whom it is set against, see `Writer.text_model`; None for no contrast.
        directory: as of `write_instructions`.
        tasks: the file of tasks; None is instructions.jsonl of `directory`.
    """
    method = round_.answering_method(contrasted=amateur is not None)
    counts = responses.write_responses(
        directory,
        expert.text_model(method, round_.batch_size, amateur),
        round_.answering,
        round_.num_rows,
        round_.index,
        round_.seeds,
        round_.batch_size,
        tasks,
    )
    return Written(files.path(directory) / TRAIN, counts)


def write_rows(
    round_: Round,
    directory: files.StrPath,
    writer: Writer,
    expert: Writer,
    amateur: Writer | None = None,
) -> Written:
    """Writes tasks and answers in turn, until there are `num_rows` rows or no more tasks come.

    Where no task was kept, what was written are the tasks.

    Args:
        round_: what from.
        directory: as of `write_instructions`.
        writer: writes the tasks.
        expert: as of `write_responses`.
        amateur: likewise.
    """
    tasks, rows = refill(
        lambda count: write_instructions(round_, writer, directory, count).counts,
        lambda: write_responses(round_, expert, amateur, directory).counts,
        round_.num_rows,
    )
    place = files.path(directory)
    return Written(place / TRAIN, rows) if tasks["kept"] else Written(place / INSTRUCTIONS, tasks)


def seeded(method: Greedy, seed: int) -> Greedy:
    """A method that draws, with that seed; others as they are."""
    return dataclasses.replace(method, seed=seed) if isinstance(method, Sampling) else method
