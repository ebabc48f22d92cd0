"""What a run will ask of a model, told before it runs and without its weights.

Prompts are made and counted. How much a model writes, and how much of that is kept, is taken from
records where the directory has some, of a first small run or of a part of this one:

    tasks             those of the round, else those of the round before
    untuned answers   those of round 1
    expert's answers  those of the round, else the rows that the expert was tuned on
    evaluation        the model's predictions; else its answers to tasks, or the references

Without records, tasks are assumed to be as long as the seeds', `KEPT_TASKS` of them to be kept, and
all answers. An untuned model writes until something stops it: its answers are assumed to be longer
than the seeds' and shorter than the limit, by the same factor. `Forecast.basis` says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mixtures.prompts import TEMPLATES
from mixtures.specialization_prompts import NO_INPUT
from t5x_ext import files
from t5x_ext.errors import ConfigError
from t5x_ext.generation.answering import response_request
from t5x_ext.generation.evaluation import ask, demonstrations
from t5x_ext.generation.instructions import INSTRUCTIONS, REQUESTS, instruction_request
from t5x_ext.generation.journal import Record, read_records
from t5x_ext.generation.pipeline import Pipeline
from t5x_ext.generation.requests import CompletionRequest, TextModel
from t5x_ext.generation.responses import RESPONSES, TRAIN
from t5x_ext.generation.rounds import Round
from t5x_ext.retrieval import CorpusSample

# Self-Instruct and Alpaca report that about half of what is written survives the filters.
KEPT_TASKS = 0.5
_LISTED_TASKS = 20  # that the prompt asks for, demonstrations included
# Of a list that ends at the limit, what the task that it ends in adds to the whole ones.
_CUT_TASK = 0.5
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
        basis: what lengths and yields are taken from, a line each.
    """

    work: tuple[Work, ...]
    samples: tuple[str, ...]
    basis: tuple[str, ...]


class _Seen(NamedTuple):
    """Records of a round; empty where there are none."""

    requests: list[Record]
    tasks: list[Record]
    answers: list[Record]
    rows: list[Record]

    @classmethod
    def of(cls, pipeline: Pipeline, number: int) -> _Seen:
        requests, written, answers, rows = (
            pipeline.of_round(number, name) for name in (REQUESTS, INSTRUCTIONS, RESPONSES, TRAIN)
        )
        tasks = pipeline.given_tasks(number) or written
        return cls(*(_records(path) for path in (requests, tasks, answers, rows)))

    def after(self, before: _Seen) -> _Seen:
        """These records, and those of the round before where there are none of a kind."""
        return _Seen(
            self.requests if self.tasks else before.requests,
            self.tasks or before.tasks,
            self.answers,
            self.rows if self.answers else before.rows,
        )


class _Answers(NamedTuple):
    """What is known or assumed of a round's answers.

    Attributes:
        tokens: of one, with its end, on average.
        kept: share of them that become rows.
        basis: where that is from.
    """

    tokens: float
    kept: float
    basis: str


def forecast(pipeline: Pipeline) -> Forecast:
    """Counts the prompts and tokens of every stage.

    Args:
        pipeline: the run.

    Raises:
        ConfigError: a prompt does not fit into the model's context.
    """
    this = pipeline.round
    writer = pipeline.base.open()[None]
    text_model = writer.text_model(this.response_decoding, this.batch_size)
    work: list[Work] = []
    samples: list[str] = []
    basis: list[str] = []
    seen, untuned = _Seen.of(pipeline, 1), None
    for number in range(1, pipeline.num_rounds + 1):
        seen = seen if number == 1 else _Seen.of(pipeline, number).after(seen)
        answers = _answers(this, text_model.count_tokens, seen, untuned)
        untuned = untuned or answers
        given = pipeline.given_tasks(number) is not None
        answered, requests = _responses(this, text_model, seen, answers, number, given)
        basis.append(f"round {number}: {answers.basis}")
        if not given:
            asked, prompts, found = _instructions(this, text_model, seen, answered.outputs, number)
            work.append(asked)
            basis.insert(-1, f"round {number}: {found}")
            samples += [request.contexts[0] for request in prompts[:2]] if number == 1 else []
        samples += [request.contexts[0] for request in requests[:3]] if number == 1 else []
        rows = min(this.num_rows, max(1, round(answered.outputs * answers.kept)))
        work += [answered, _tuning(pipeline, text_model.count_tokens, seen, answers, number, rows)]
    if isinstance(this.index, CorpusSample):
        basis.append("passages: a sample of the corpus, as it has no index yet")
    if this.evaluation:
        assert untuned is not None  # there is a round
        work += _evaluation(pipeline, text_model, untuned)
    return Forecast(tuple(work), tuple(samples), tuple(basis))


def _instructions(
    this: Round, text_model: TextModel, seen: _Seen, tasks: int, number: int
) -> tuple[Work, list[CompletionRequest], str]:
    """The work, some requests, and the basis of both."""
    count_tokens, most = text_model.count_tokens, this.asking.max_requests
    numbers = range(max(2, min(tasks, most, _MEASURED)))
    asked = [instruction_request(this.seeds, this.asking, text_model, n) for n in numbers]
    limit = _mean(request.max_new_tokens for request in asked)
    if seen.requests and seen.tasks:
        kept = len(seen.tasks) / len(seen.requests)
        length = _mean(_tokens(r, "completion", count_tokens, limit) for r in seen.requests)
        basis = f"tasks as {len(seen.requests):,} requests in the directory wrote them"
    else:
        listed, one = _LISTED_TASKS - this.asking.num_demonstrations, _task_tokens(this, text_model)
        length = min(limit, listed * one)
        whole = listed if length < limit else max(length / one - _CUT_TASK, _CUT_TASK)
        kept = KEPT_TASKS * whole
        basis = f"assumed: tasks as long as the seeds', {KEPT_TASKS:.0%} of them kept"
    batch = this.batch_size
    # A batch is written as a whole, also where its first request has the last task wanted.
    requests = min(math.ceil(math.ceil(tasks / kept) / batch) * batch, most)
    read = requests * _mean(count_tokens(request.contexts[0]) for request in asked)
    longest = max(request.max_new_tokens for request in asked)
    stage = f"round {number} instructions"
    work = Work(stage, requests, requests, round(read), round(requests * length), longest)
    return work, asked, f"{basis}, {kept:.1f} of a request"


def _task_tokens(this: Round, text_model: TextModel) -> float:
    """Of a task in a list, were it a seed."""
    return _mean(
        text_model.count_tokens(
            f"###\n9. Instruction: {s.instruction}\n9. Input:\n{s.input or NO_INPUT}\n"
        )
        for s in this.seeds
    )


def _answers(
    this: Round,
    count_tokens: Callable[[str], int],
    seen: _Seen,
    untuned: _Answers | None,
) -> _Answers:
    limit = this.answering.max_new_tokens

    def tokens(records: Iterable[Record]) -> float:
        return _mean(_tokens(record, "output", count_tokens, limit) for record in records)

    if seen.answers:
        found = tokens(seen.answers)
        kept = min(1.0, len(seen.rows) / len(seen.answers)) or 1.0
        basis = f"answers as the {len(seen.answers):,} in the directory"
    elif seen.rows:
        found, kept = tokens(seen.rows), 1.0
        basis = "assumed: an expert's answers as the rows that it was tuned on, all kept"
    elif untuned is not None:
        found, kept = untuned.tokens, 1.0
        basis = "assumed: an expert's answers as those of the model before, all kept"
    else:
        least = tokens({"output": seed.output} for seed in this.seeds)
        found, kept = math.sqrt(least * limit), 1.0
        basis = (
            f"assumed: answers between the seeds' {least:.0f} tokens and the limit's {limit}, all "
            f"kept; off by a factor of {found / least:.1f} at most"
        )
    return _Answers(found, kept, f"{basis}; {found:.0f} tokens each")


def _responses(
    this: Round,
    text_model: TextModel,
    seen: _Seen,
    answers: _Answers,
    number: int,
    given: bool,
) -> tuple[Work, list[CompletionRequest]]:
    count_tokens, answering = text_model.count_tokens, this.answering
    tasks = _some(seen.tasks) or [
        {"id": seed.id, "instruction": seed.instruction, "input": seed.input}
        for seed in _some(this.seeds)
    ]
    requests = []
    for place, task in enumerate(tasks):
        query = f"{task['instruction']}\n{task['input']}"
        hits = this.index.search(query, answering.num_passages) if this.index else []
        asked = response_request(answering, text_model, task, hits, place)
        requests += [asked[0]] if asked else []  # tasks that are too long are not asked
    if not requests:
        raise ConfigError(
            f"round {number}: no task fits into the model's context of {text_model.max_tokens} "
            f"beside ResponseSettings.max_new_tokens={answering.max_new_tokens}; allowed: less"
        )
    count = math.ceil(this.num_rows / answers.kept)
    if given and seen.tasks:  # there are no more to answer
        count = min(count, len(seen.tasks))
    sides = 1 if number == 1 else 2  # the amateur reads what the expert reads
    prompts = count * sides * _mean(len(request.contexts) for request in requests)
    read = count * sides * _mean(sum(map(count_tokens, r.contexts)) for r in requests)
    written = round(count * answers.tokens)
    stage, longest = f"round {number} responses", answering.max_new_tokens
    return Work(stage, count, round(prompts), round(read), written, longest), requests


def _tuning(
    pipeline: Pipeline,
    count_tokens: Callable[[str], int],
    seen: _Seen,
    answers: _Answers,
    number: int,
    num_rows: int,
) -> Work:
    render, gap = TEMPLATES["alpaca"]
    settings = pipeline.tuning
    longest = sum(settings.lengths.values())
    if seen.rows:
        texts = [render(r["instruction"], r["input"]) + gap + r["output"] for r in seen.rows]
        of_row = _mean(min(count_tokens(text) + 1, longest) for text in texts)
    else:
        asked = [render(seed.instruction, seed.input) + gap for seed in pipeline.round.seeds]
        of_row = _mean(min(count_tokens(text) + answers.tokens, longest) for text in asked)
    rows = settings.num_steps(num_rows) * settings.batch_size
    stage = f"round {number} train"
    return Work(stage, rows, rows, round(rows * of_row), 0, 0, is_tuning=True)


def _evaluation(pipeline: Pipeline, text_model: TextModel, untuned: _Answers) -> list[Work]:
    rows, seeds = pipeline.round.evaluation, pipeline.round.seeds
    count_tokens, measured = text_model.count_tokens, _some(rows)
    found = []
    for name, template in pipeline.asked_models():
        read, written, longest = 0.0, 0.0, 0
        for shots in pipeline.shots:
            settings = pipeline.evaluation_settings(template, shots)
            shown = {row.task: demonstrations(row.task, seeds, shots) for row in measured}
            asked = [ask(row, shown[row.task], settings, text_model).prompt for row in measured]
            read += len(rows) * _mean(map(count_tokens, asked))
            longest = max(settings.limit(row.category) for row in rows)
            answered = _records(pipeline.predictions_file(name, shots))
            if answered:
                tokens = [_tokens(r, "prediction", count_tokens, longest) for r in answered]
            elif not name.startswith("round"):
                tokens = [untuned.tokens]
            else:
                tokens = [count_tokens(row.references[0]) + 1 for row in measured]
            written += len(rows) * _mean(min(count, longest) for count in tokens)
        prompts, stage = len(rows) * len(pipeline.shots), f"evaluate {name}"
        found.append(Work(stage, prompts, prompts, round(read), round(written), longest))
    return found


def _tokens(record: Record, field: str, count_tokens: Callable[[str], int], limit: float) -> float:
    """Of what a model wrote, or would write, with its end."""
    if record.get("finish") == "length":
        return limit
    return min(count_tokens(record[field]) + 1, limit)


def _records(path: files.StrPath) -> list[Record]:
    path = files.path(path)
    return read_records(path) if files.is_file(path) else []


def _some(found: Sequence[Any]) -> list[Any]:
    """At most `_MEASURED` or so, evenly spread."""
    return list(found[:: math.ceil(len(found) / _MEASURED) or 1])


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
