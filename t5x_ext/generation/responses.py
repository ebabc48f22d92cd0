"""Second stage: a model answers the tasks, shown with passages; what is kept is trained on.

    responses.jsonl      one line a task of instructions.jsonl that was answered
    train.jsonl          instruction, input, output: own-data JSONL, which `train` takes as it is
    measurements.jsonl   how probable each answer was and how long it took, by id

train.jsonl follows from responses.jsonl. Log-probabilities are sums of floats, whose last digits
depend on the batch, and seconds differ from run to run; in a separate file they leave the others
the same at any batch size. A run that is killed may have measured an answer twice.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from mixtures.specialization.records import Seed
from t5x_ext import bounds, files
from t5x_ext.errors import ConfigError
from t5x_ext.generation.answering import ResponseSettings, check_room, response_request
from t5x_ext.generation.instructions import INSTRUCTIONS, prompt_hash
from t5x_ext.generation.journal import (
    BEGUN_WITH,
    Journal,
    Record,
    Replayed,
    check_same,
    check_texts,
    only_run,
    read_records,
)
from t5x_ext.generation.overlap import fold
from t5x_ext.generation.requests import CompletionRequest, TextModel, completions
from t5x_ext.progress import MinuteNotes
from t5x_ext.retrieval import Hit, Index

# Of a task whose instruction alone leaves no room for an answer in the model's context.
TOO_LONG = "too_long"
RESPONSES, TRAIN, MEASUREMENTS = "responses.jsonl", "train.jsonl", "measurements.jsonl"


class AnswerFilter:
    """Judges answers one after the other; Self-Instruct's rules."""

    def __init__(self, keep_cut: bool = False):
        self._keep_cut = keep_cut
        self._outputs: dict[tuple[str, str], str] = {}

    def judge(self, instruction: str, text: str, output: str, finish: str) -> str | None:
        """Why an answer is not trained on; None if it is.

        Args:
            instruction: of the task.
            text: its input.
            output: the answer.
            finish: 'eos', 'stop' or 'length'; `TOO_LONG` of a task that was not asked.
        """
        if finish == TOO_LONG:
            return TOO_LONG
        output = output.strip()
        if not output:
            return "empty"
        if output == text.strip():
            return "copies_input"
        if output.endswith(":"):
            return "colon"
        if finish == "length" and not self._keep_cut:
            return "cut"
        task = (fold(instruction), fold(text))
        if self._outputs.setdefault(task, output) != output:
            return "other_output"
        return None


def write_responses(
    directory: files.StrPath,
    text_model: TextModel,
    settings: ResponseSettings,
    count: int,
    index: Index | None = None,
    seeds: Iterable[Seed] = (),
    batch_size: int = 8,
    instructions: files.StrPath | None = None,
) -> Counter[str]:
    """Answers tasks in their order until `count` answers are kept, or no task is left.

    Args:
        directory: where the files are.
        text_model: the model.
        settings: how to answer.
        count: rows wanted, seeds not counted.
        index: of the corpus; None answers without passages.
        seeds: for `include_seeds`; and a task like each must fit.
        batch_size: tasks given to the model at a time; does not change the files.
        instructions: the tasks; None is the directory's own instructions.jsonl. A file may have
            been edited: tasks that are answered already must only be as they were.

    Returns:
        How many answers were 'kept', and how many were dropped by reason.

    Raises:
        ConfigError: a file was begun under other settings, or `max_new_tokens` leaves no room for
            tasks like the seeds.
    """
    bounds.check_int("count", count, 1)
    bounds.check_int("batch_size", batch_size, 1)
    seeds = list(seeds)
    check_room(settings, text_model, seeds)
    place = files.path(directory)
    tasks = read_tasks(instructions or place / INSTRUCTIONS)
    index = index if settings.num_passages else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_run(place))
        responses = stack.enter_context(Journal(place / RESPONSES))
        measurements = stack.enter_context(Journal(place / MEASUREMENTS))
        train = Replayed(place / TRAIN, RESPONSES)
        stack.callback(train.close)
        made_by = _made_by(text_model, settings, index)
        answered = _by_id(responses, made_by)
        _check_prompt(responses, tasks, text_model, settings, index)
        answers = AnswerFilter(settings.keep_cut)
        counts: Counter[str] = Counter()
        if settings.include_seeds:
            for seed in seeds:
                train.put(_row(seed.id, seed.instruction, seed.input, seed.output, settings, 0))
        progress = stack.enter_context(MinuteNotes("writing answers", count, "answers kept"))
        for batch in _batches(tasks, batch_size):
            new = [(n, task) for n, task in batch if task["id"] not in answered]
            if len(new) == len(batch):
                progress.count(counts["kept"])
            else:
                progress.find(counts["kept"])
            made = _answers(text_model, settings, new, index, made_by)
            for _, task in batch:
                record = answered.get(task["id"])
                if record is None:
                    record, measured = next(made)
                    measurements.append(measured)
                    responses.append(record)
                _check_task(responses, record, task)
                texts = (record["instruction"], record["input"], record["output"])
                reason = answers.judge(*texts, record["finish"])
                counts[reason or "kept"] += 1
                if reason is None:
                    train.put(_row(task["id"], *texts, settings, settings.round))
                if counts["kept"] >= count:
                    return counts
        train.finish()  # not above: an earlier run may have been asked for more rows
    return counts


def read_tasks(path: files.StrPath) -> list[Record]:
    """The records of instructions.jsonl, edited or not.

    Raises:
        ConfigError: a line lacks a text, an id is used twice, or there is no task.
    """
    if not files.is_file(path):
        raise ConfigError(f"{path}: no such file; run the stage 'instructions' first")
    tasks = read_records(path)
    seen = set()
    for number, task in enumerate(tasks, start=1):
        check_texts(f"{path}: record {number}", task, ("id", "instruction", "input"))
        if task["id"] in seen:
            raise ConfigError(f"{path}: record {number}: id {task['id']!r} occurs twice")
        seen.add(task["id"])
    if not tasks:
        raise ConfigError(f"{path}: holds no task; run the stage 'instructions' first")
    return tasks


def _made_by(text_model: TextModel, settings: ResponseSettings, index: Index | None) -> Record:
    """What an answer depends on besides its task and prompt: fields of its record."""
    method = text_model.method
    if index is not None:
        weighting = settings.weighting
        if weighting == "softmax":
            weighting += f" at {settings.temperature:g}"
        corpus = index.corpus.digest[:8]
        method += f"; {settings.num_passages} passages of {corpus} ({weighting})"
    return {
        "model": text_model.model,
        "method": method,
        "seed": settings.seed,
        "max_new_tokens": settings.max_new_tokens,
        "stops": list(settings.stops),
        "bm25": None if index is None else index.found_by,
    }


def _answers(
    text_model: TextModel,
    settings: ResponseSettings,
    tasks: Sequence[tuple[int, Record]],
    index: Index | None,
    made_by: Record,
) -> Iterator[tuple[Record, Record]]:
    """Records of responses.jsonl and measurements.jsonl for tasks with their numbers.

    `seconds` count from when the batch was given to the model until the answer was there.
    """
    found = [_passages(task, settings, index) for _, task in tasks]
    asked = [
        response_request(settings, text_model, task, hits, number)
        for (number, task), hits in zip(tasks, found, strict=True)
    ]
    clock = time.monotonic()
    made = completions(text_model, [each[0] for each in asked if each is not None])
    for (_, task), hits, each in zip(tasks, found, asked, strict=True):
        measured: Record = {"id": task["id"]}
        if each is None:
            record = _record(task, TOO_LONG)
        else:
            (request, cut), completion = each, next(made)
            record = _record(task, completion.finish, completion.text, request, hits, cut)
            if completion.log_prob is not None:
                measured["log_prob"] = completion.log_prob
        yield record | made_by, measured | {"seconds": round(time.monotonic() - clock, 3)}


def _passages(task: Record, settings: ResponseSettings, index: Index | None) -> list[Hit]:
    """What a task is shown with."""
    if index is None:
        return []
    return index.search(f"{task['instruction']}\n{task['input']}", settings.num_passages)


def _record(
    task: Record,
    finish: str,
    output: str = "",
    request: CompletionRequest | None = None,
    hits: Sequence[Hit] = (),
    cut: bool = False,
) -> Record:
    """An answer; without a request that of a task that does not fit."""
    weights = request.log_weights if request else ()
    return {
        "id": task["id"],
        "instruction": task["instruction"],
        "input": task["input"],
        "output": output.strip(),
        "passages": [
            {"id": hit.passage.id, "score": hit.score, "weight": math.exp(log_weight)}
            for hit, log_weight in zip(hits, weights, strict=False)
        ],
        "finish": finish,
        "truncated": cut,
        "prompt": prompt_hash(request.contexts) if request else None,
    }


def _row(
    name: str, instruction: str, text: str, output: str, settings: ResponseSettings, round_: int
) -> Record:
    return {
        "instruction": instruction,
        "input": text,
        "output": output,
        "id": name,
        "domain": settings.domain,
        "round": round_,
    }


def _by_id(responses: Journal, made_by: Record) -> dict[str, Record]:
    """The answers that an earlier run left, after checks that they came about as this run's do."""
    found = {}
    for number, record in enumerate(responses.records, start=1):
        where = f"{responses.path}: line {number}"
        check_same(where, record, made_by, BEGUN_WITH)
        check_texts(where, record, ("id", "instruction", "input", "output", "finish"))
        found[record["id"]] = record
    return found


def _check_prompt(
    responses: Journal,
    tasks: Sequence[Record],
    text_model: TextModel,
    settings: ResponseSettings,
    index: Index | None,
) -> None:
    """Refuses answers to other prompts than this run's, such as those of another domain.

    Only the first answer's prompt is made again: its template is that of all, and a search in 30
    million passages for each of thousands of answers would take minutes.
    """
    by_id = {task["id"]: (number, task) for number, task in enumerate(tasks)}
    for place, record in enumerate(responses.records, start=1):
        number, task = by_id.get(record["id"], (0, None))
        if task is None:
            continue
        _check_task(responses, record, task)
        hits = _passages(task, settings, index)
        asked = response_request(settings, text_model, task, hits, number)
        prompt = {"prompt": prompt_hash(asked[0].contexts) if asked else None}
        check_same(f"{responses.path}: line {place}", record, prompt, BEGUN_WITH)
        return


def _check_task(responses: Journal, record: Record, task: Record) -> None:
    for field in ("instruction", "input"):
        if record[field] != task[field]:
            raise ConfigError(
                f"{responses.path}: answers task {task['id']} with another {field} than the tasks "
                "have now; allowed: a task under a new id, or no such answer"
            )


def _batches(tasks: Sequence[Record], size: int) -> Iterator[list[tuple[int, Record]]]:
    numbered = iter(enumerate(tasks))
    while batch := list(itertools.islice(numbered, size)):
        yield batch
