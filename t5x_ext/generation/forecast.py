"""What a run will ask of a model, told before it runs and without its weights.

Lengths and yields are taken from the records of round 1 where its directory has some: from a first
small run, say. Without them, tasks and answers are assumed to be as long as those of the seeds,
`KEPT_TASKS` of the tasks to be kept, and all answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mixtures.prompts import TEMPLATES
from mixtures.specialization_prompts import NO_INPUT
from t5x_ext import files
from t5x_ext.generation.evaluation import ask, demonstrations
from t5x_ext.generation.instructions import INSTRUCTIONS, REQUESTS, instruction_request
from t5x_ext.generation.journal import Record, read_records
from t5x_ext.generation.pipeline import Pipeline
from t5x_ext.generation.requests import Generator, Request
from t5x_ext.generation.responses import RESPONSES, TRAIN, response_request
from t5x_ext.generation.rounds import Round

# Self-Instruct and Alpaca report that about half of what is written survives the filters.
KEPT_TASKS = 0.5
_LISTED_TASKS = 20  # that the prompt asks for, demonstrations included
_MEASURED = 64  # prompts of each kind that are made and counted


class Work(NamedTuple):
    """What a stage asks of a model.

    Attributes:
        stage: its name.
        outputs: texts to write, or rows to tune on.
        prompts: that are read for them: one a passage, and for an amateur as many again.
        read: tokens of these prompts.
        written: tokens of the outputs; passages and the amateur share them.
        longest: tokens of the longest output, at most.
        is_tuning: whether there is a backward pass.
    """

    stage: str
    outputs: int
    prompts: int
    read: int
    written: int
    longest: int
    is_tuning: bool = False


class Forecast(NamedTuple):
    """What a run takes.

    Attributes:
        work: of all stages in their order.
        samples: prompts as the model would see them: two for tasks, three for answers.
        is_seen: whether lengths and yields are those of records in the directory.
    """

    work: tuple[Work, ...]
    samples: tuple[str, ...]
    is_seen: bool


class _Seen(NamedTuple):
    """Records of round 1; empty where there are none."""

    requests: list[Record]
    tasks: list[Record]
    answers: list[Record]
    rows: list[Record]

    @classmethod
    def of(cls, pipeline: Pipeline) -> _Seen:
        requests, written, answers, rows = (
            pipeline.of_round(1, name) for name in (REQUESTS, INSTRUCTIONS, RESPONSES, TRAIN)
        )
        tasks = pipeline.given_tasks(1) or written
        paths = [files.path(path) for path in (requests, tasks, answers, rows)]
        return cls(*(read_records(path) if files.is_file(path) else [] for path in paths))


def forecast(pipeline: Pipeline) -> Forecast:
    """Counts the prompts and tokens of every stage.

    Args:
        pipeline: the run.

    Raises:
        ConfigError: a prompt does not fit into the model's context.
    """
    this, seen = pipeline.round, _Seen.of(pipeline)
    writer = pipeline.weights.open()[None]
    generator = writer.generator(this.response_decoding, this.batch_size)
    work: list[Work] = []
    samples: list[str] = []
    for number in range(1, pipeline.num_rounds + 1):
        answered, answers = _responses(this, generator, seen, number)
        if pipeline.given_tasks(number) is None:
            asked, requests = _instructions(this, generator, seen, answered.outputs, number)
            work.append(asked)
            samples += [request.contexts[0] for request in requests[:2]] if number == 1 else []
        samples += [request.contexts[0] for request in answers[:3]] if number == 1 else []
        work += [answered, _tuning(pipeline, generator.count_tokens, seen, number)]
    if this.evaluation:
        work += _evaluation(pipeline, generator)
    return Forecast(tuple(work), tuple(samples), is_seen=bool(seen.answers))


def _instructions(
    this: Round, generator: Generator, seen: _Seen, tasks: int, number: int
) -> tuple[Work, list[Request]]:
    count_tokens, listed = generator.count_tokens, _LISTED_TASKS - this.asking.num_demonstrations
    if seen.requests and seen.tasks:
        kept = len(seen.tasks) / len(seen.requests)
        length = _mean(count_tokens(record["completion"]) for record in seen.requests)
    else:
        kept = listed * KEPT_TASKS
        length = listed * _mean(
            count_tokens(
                f"###\n9. Instruction: {s.instruction}\n9. Input:\n{s.input or NO_INPUT}\n"
            )
            for s in this.seeds
        )
    requests = min(math.ceil(tasks / kept), this.asking.max_requests)
    numbers = range(max(2, min(requests, _MEASURED)))
    asked = [instruction_request(this.seeds, this.asking, generator, n) for n in numbers]
    read = requests * _mean(count_tokens(request.contexts[0]) for request in asked)
    written = requests * min(length, _mean(request.max_new_tokens for request in asked))
    longest = max(request.max_new_tokens for request in asked)
    stage = f"round {number} instructions"
    return Work(stage, requests, requests, round(read), round(written), longest), asked


def _responses(
    this: Round, generator: Generator, seen: _Seen, number: int
) -> tuple[Work, list[Request]]:
    count_tokens, answering = generator.count_tokens, this.answering
    tasks = _some(seen.tasks) or [
        {"id": seed.id, "instruction": seed.instruction, "input": seed.input}
        for seed in _some(this.seeds)
    ]
    requests = []
    for place, task in enumerate(tasks):
        query = f"{task['instruction']}\n{task['input']}"
        hits = this.index.search(query, answering.num_passages) if this.index else []
        requests.append(response_request(answering, generator, task, hits, place)[0])
    outputs = [answer["output"] for answer in seen.answers] or [seed.output for seed in this.seeds]
    longest = answering.max_new_tokens
    length = _mean(min(count_tokens(output) + 1, longest) for output in outputs)
    kept = len(seen.rows) / len(seen.answers) if seen.rows and seen.answers else 1.0
    count = math.ceil(this.num_rows / kept)
    sides = 1 if number == 1 else 2  # the amateur reads what the expert reads
    prompts = count * sides * _mean(len(request.contexts) for request in requests)
    read = count * sides * _mean(sum(map(count_tokens, r.contexts)) for r in requests)
    stage = f"round {number} responses"
    work = Work(stage, count, round(prompts), round(read), round(count * length), longest)
    return work, requests


def _tuning(
    pipeline: Pipeline, count_tokens: Callable[[str], int], seen: _Seen, number: int
) -> Work:
    render, gap = TEMPLATES["alpaca"]
    settings = pipeline.tuning
    shown = seen.rows or [
        {"instruction": seed.instruction, "input": seed.input, "output": seed.output}
        for seed in pipeline.round.seeds
    ]
    texts = [render(row["instruction"], row["input"]) + gap + row["output"] for row in shown]
    longest = sum(settings.lengths.values())
    of_row = _mean(min(count_tokens(text) + 1, longest) for text in texts)
    rows = settings.num_steps(pipeline.round.num_rows) * settings.batch_size
    stage = f"round {number} train"
    return Work(stage, rows, rows, round(rows * of_row), 0, 0, is_tuning=True)


def _evaluation(pipeline: Pipeline, generator: Generator) -> list[Work]:
    rows, seeds = pipeline.round.evaluation, pipeline.round.seeds
    measured = _some(rows)
    found = []
    for name, template in pipeline.asked_models():
        prompts, read, longest = 0, 0.0, 0
        for shots in pipeline.shots:
            settings = pipeline.evaluation_settings(template, shots)
            shown = {row.task: demonstrations(row.task, seeds, shots) for row in measured}
            asked = [ask(row, shown[row.task], settings, generator).prompt for row in measured]
            read += len(rows) * _mean(map(generator.count_tokens, asked))
            prompts += len(rows)
            longest = max(settings.limit(row.kind) for row in rows)
        written = _mean(generator.count_tokens(row.references[0]) + 1 for row in measured)
        stage = f"evaluate {name}"
        found.append(Work(stage, prompts, prompts, round(read), round(prompts * written), longest))
    return found


def _some(found: Sequence[Any]) -> list[Any]:
    """At most `_MEASURED` or so, evenly spread."""
    return list(found[:: math.ceil(len(found) / _MEASURED) or 1])


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
