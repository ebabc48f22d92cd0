"""Evaluation with k demonstrations: the task's seeds before each question, in one template.

Predictions go into a file that `score` reads, with a few fields besides those of every predictions
file: how the output ended, how many demonstrations were shown and how many had to go.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mixtures.prompts import STOPS, TEMPLATES
from mixtures.records import Row
from mixtures.specialization.records import Seed
from mixtures.specialization_prompts import Demonstration, few_shot
from mixtures.truncation import cut_middle, largest_fitting
from t5x_ext import bounds, files
from t5x_ext.decoding.requests import LimitByKind
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.generation.journal import BEGUN_WITH, Journal, Record, check_same
from t5x_ext.generation.requests import CompletionRequest, TextModel, completions, single
from t5x_ext.progress import MinuteNotes


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How questions are asked.

    Attributes:
        template: 'alpaca', for models that were tuned with it, or 'ss.none'.
        shots: demonstrations before each question.
        max_new_tokens: of an answer: one number, or by the kind of its question; None is 256 for
            long answers and summaries, else 128.
        seed: of the draws, where the method draws.
        stop: texts before which an answer ends; None are the template's.
    """

    template: str = "alpaca"
    shots: int = 0
    max_new_tokens: int | LimitByKind | None = None
    seed: int = 0
    stop: Sequence[str] | None = None

    def __post_init__(self) -> None:
        name = "EvaluationSettings"
        if self.template not in TEMPLATES:
            raise ConfigError(
                f"{name}.template: {self.template!r}{nearest(self.template, TEMPLATES)}"
            )
        bounds.check_int(f"{name}.shots", self.shots, 0, 1000)
        bounds.check_seed(f"{name}.seed", self.seed)
        if not isinstance(self.max_new_tokens, LimitByKind | None):
            bounds.check_int(f"{name}.max_new_tokens", self.max_new_tokens, 1, bounds.MAX_TOKENS)
        if self.stop is not None:
            object.__setattr__(self, "stop", bounds.to_texts(f"{name}.stop", self.stop))

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which an answer ends."""
        return STOPS[self.template] if self.stop is None else tuple(self.stop)

    def limit(self, kind: str) -> int:
        """The most tokens of an answer to a question of this kind."""
        limit = LimitByKind() if self.max_new_tokens is None else self.max_new_tokens
        return limit.of(kind) if isinstance(limit, LimitByKind) else limit


class Question(NamedTuple):
    """A prompt that fits.

    Attributes:
        prompt: what the model reads.
        shown: demonstrations in it.
        lost: demonstrations that had no room; the first ones go first.
        truncated: whether the question itself lost the middle of its input.
    """

    prompt: str
    shown: int
    lost: int
    truncated: bool


def demonstrations(task: str, seeds: Sequence[Seed], shots: int) -> list[Demonstration]:
    """The first seeds of a task in the order of their ids: the same for every row.

    Raises:
        ConfigError: the task has too few.
    """
    own = sorted((seed for seed in seeds if seed.task == task), key=lambda seed: seed.id)
    if len(own) < shots:
        raise ConfigError(
            f"SHOTS: {shots}, but task '{task}' has {len(own)} seeds; allowed: at most as many as "
            "each evaluated task has"
        )
    return [Demonstration(seed.instruction, seed.input, seed.output) for seed in own[:shots]]


def ask(
    row: Row,
    shown: Sequence[Demonstration],
    settings: EvaluationSettings,
    text_model: TextModel,
) -> Question:
    """A row's question after its demonstrations, in what the model's context leaves.

    Raises:
        ConfigError: not even the instruction fits.
    """
    render, gap = TEMPLATES[settings.template]
    limit = text_model.max_tokens - settings.limit(row.category)

    def write(first: int, text: str) -> str:
        return few_shot(render, gap, shown[first:], row.definition, text)

    def fits(prompt: str) -> bool:
        return text_model.count_tokens(prompt) <= limit

    for first in range(len(shown) + 1):
        prompt = write(first, row.input)
        if fits(prompt):
            return Question(prompt, len(shown) - first, first, False)
    none = len(shown)
    size = largest_fitting(
        len(row.input), lambda n: fits(write(none, cut_middle(row.input, n))), lowest=1
    )
    if size is None:
        raise ConfigError(
            f"{row.task}/{row.id}: has {text_model.count_tokens(write(none, ''))} tokens without "
            f"its input; allowed: {max(0, limit)}, the model's context of {text_model.max_tokens} "
            f"less {settings.limit(row.category)} for the answer"
        )
    return Question(write(none, cut_middle(row.input, size)), 0, none, True)


def write_predictions(
    path: files.StrPath,
    rows: Sequence[Row],
    seeds: Sequence[Seed],
    text_model: TextModel,
    settings: EvaluationSettings,
    batch_size: int = 8,
) -> Counter[str]:
    """Answers questions into a predictions file; a killed run resumes from there.

    Args:
        path: the file.
        rows: the questions, of any tasks.
        seeds: demonstrations, by task.
        text_model: the model, and how it decodes.
        settings: how to ask.
        batch_size: questions given to the model at a time; does not change the file.

    Returns:
        'rows', how the outputs ended ('eos', 'stop', 'length'), 'lost' demonstrations and
        'truncated' questions.

    Raises:
        ConfigError: the file is of other questions or settings, or a task has too few seeds.
    """
    tasks = {row.task for row in rows}
    shown = {task: demonstrations(task, seeds, settings.shots) for task in sorted(tasks)}
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(Journal(path))
        if len(journal.records) > len(rows):
            raise ConfigError(
                f"{path}: {len(journal.records)} predictions of {len(rows)} rows; allowed: the "
                "rows that the file was begun with, or another file"
            )
        progress = stack.enter_context(MinuteNotes(f"answering {path}", len(rows), "questions"))
        progress.find(len(journal.records))
        for first in range(0, len(rows), batch_size):
            batch = range(first, min(first + batch_size, len(rows)))
            asked = {n: ask(rows[n], shown[rows[n].task], settings, text_model) for n in batch}
            headers = {n: _header(rows[n], asked[n], settings, text_model) for n in batch}
            for number in batch:
                if number < len(journal.records):
                    where = f"{path}: line {number + 1}"
                    check_same(where, journal.records[number], headers[number], BEGUN_WITH)
            new = [n for n in batch if n >= len(journal.records)]
            for record in _answered(new, rows, asked, headers, settings, text_model):
                journal.append(record)
                progress.count(len(journal.records))
            for number in batch:
                counts[journal.records[number]["finish"]] += 1
                counts["lost"] += asked[number].lost
                counts["truncated"] += asked[number].truncated
    counts["rows"] = len(rows)
    return counts


def _header(
    row: Row, question: Question, settings: EvaluationSettings, text_model: TextModel
) -> Record:
    """A prediction's record but for the prediction."""
    own_stops = {} if settings.stop is None else {"stops": list(settings.stops)}
    return own_stops | {
        "task": row.task,
        "category": row.category,
        "id": row.id,
        "inputs": question.prompt,
        "references": list(row.references),
        "truncated": question.truncated or question.lost > 0,
        "labels": list(row.labels),
        "shots": question.shown,
        "lost": question.lost,
        "template": settings.template,
        "max_new_tokens": settings.limit(row.category),
        "model": text_model.model,
        "method": text_model.method,
    }


def _answered(
    numbers: Sequence[int],
    rows: Sequence[Row],
    asked: dict[int, Question],
    headers: dict[int, Record],
    settings: EvaluationSettings,
    text_model: TextModel,
) -> Iterator[Record]:
    requests = [
        CompletionRequest(
            *single(asked[n].prompt),
            settings.seed,
            n,
            settings.limit(rows[n].category),
            settings.stops,
        )
        for n in numbers
    ]
    for n, completion in zip(numbers, completions(text_model, requests), strict=True):
        yield headers[n] | {"prediction": completion.text.strip(), "finish": completion.finish}
