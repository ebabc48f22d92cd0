"""First stage: a model writes tasks of a domain after the example of a few seeds.

    requests.jsonl       what the model wrote, one line a request
    instructions.jsonl   tasks that the filters kept
    rejected.jsonl       all others, each with its reason

The last two follow from the first. A killed run resumes after the last whole line of
requests.jsonl and ends with the same three files; so does one with another batch size.

instructions.jsonl may be edited: it then holds the tasks that there are, and no more are written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from mixtures.prompts import draw
from mixtures.records import Row
from mixtures.specialization.records import Seed
from mixtures.specialization_prompts import instructions_prompt
from t5x_ext import bounds, files
from t5x_ext.errors import ConfigError
from t5x_ext.generation.filters import FilterSettings, TaskFilter
from t5x_ext.generation.journal import (
    BEGUN_WITH,
    Journal,
    Record,
    Replayed,
    as_read,
    check_same,
    check_texts,
    only_run,
)
from t5x_ext.generation.parsing import STOPS, parse_completion
from t5x_ext.generation.requests import (
    Completion,
    CompletionRequest,
    TextModel,
    completions,
    single,
)
from t5x_ext.progress import MinuteNotes
from t5x_ext.terminal import note

_STEP = 64  # tokens
REQUESTS, INSTRUCTIONS, REJECTED = "requests.jsonl", "instructions.jsonl", "rejected.jsonl"


@dataclasses.dataclass(frozen=True)
class InstructionSettings:
    """How tasks are asked for.

    Attributes:
        domain: an adjective, such as 'biomedical'; the prompt names it.
        round: of self-specialization, from 1.
        seed: of all draws.
        num_demonstrations: seeds that a request shows.
        max_new_tokens: of a completion, where the model's context leaves room for as many.
        max_requests: after that many the stage ends, whatever has been kept.
        filters: which tasks are dropped.
    """

    domain: str
    round: int = 1
    seed: int = 0
    num_demonstrations: int = 3
    max_new_tokens: int = 2048
    max_requests: int = 10_000
    filters: FilterSettings = FilterSettings()

    def __post_init__(self) -> None:
        name = "InstructionSettings"
        if not self.domain.strip():
            raise ConfigError(f"{name}.domain: {self.domain!r}; allowed: an adjective")
        bounds.check_int(f"{name}.round", self.round, 1)
        bounds.check_seed(f"{name}.seed", self.seed)
        bounds.check_int(f"{name}.num_demonstrations", self.num_demonstrations, 1, 19)
        bounds.check_int(f"{name}.max_new_tokens", self.max_new_tokens, 1, bounds.MAX_TOKENS)
        bounds.check_int(f"{name}.max_requests", self.max_requests, 1)


def draw_demonstrations(
    seeds: Sequence[Seed], settings: InstructionSettings, request: int
) -> list[Seed]:
    """The seeds that a request shows, in the order shown: a pure function of (seed, request)."""
    left = list(seeds)
    return [
        left.pop(draw(len(left), "demonstration", settings.seed, request, place))
        for place in range(settings.num_demonstrations)
    ]


def instruction_request(
    seeds: Sequence[Seed], settings: InstructionSettings, text_model: TextModel, number: int
) -> CompletionRequest:
    """Request `number`, from 0.

    Raises:
        ConfigError: there are too few seeds, or the model's context is too short for the prompt.
    """
    _check_number(seeds, settings)
    shown = draw_demonstrations(seeds, settings, number)
    prompt, limit = _prompt_and_limit(shown, settings, text_model)
    return CompletionRequest(*single(prompt), settings.seed, number, limit, STOPS)


def check_seeds(
    seeds: Sequence[Seed], settings: InstructionSettings, text_model: TextModel
) -> None:
    """Refuses seeds of which a request could show too many tokens, before the first is asked.

    Raises:
        ConfigError: there are too few seeds, or the longest of them leave no room for tasks.
    """
    _check_number(seeds, settings)
    tokens = [text_model.count_tokens(f"{seed.instruction}\n{seed.input}") for seed in seeds]
    by_length = sorted(zip(tokens, range(len(seeds)), strict=True), reverse=True)
    longest = [seeds[place] for _, place in by_length[: settings.num_demonstrations]]
    _prompt_and_limit(longest, settings, text_model)


def _check_number(seeds: Sequence[Seed], settings: InstructionSettings) -> None:
    if len(seeds) < settings.num_demonstrations:
        raise ConfigError(
            f"{len(seeds)} seeds; allowed: at least {settings.num_demonstrations}, as many as a "
            "request shows (num_demonstrations)"
        )


def _prompt_and_limit(
    shown: Sequence[Seed], settings: InstructionSettings, text_model: TextModel
) -> tuple[str, int]:
    """The prompt that shows some seeds, and the most tokens of its completion."""
    prompt = instructions_prompt(settings.domain, [(s.instruction, s.input) for s in shown])
    tokens = text_model.count_tokens(prompt)
    room, least = text_model.max_tokens - tokens, min(_STEP, settings.max_new_tokens)
    if room < least:
        raise ConfigError(
            f"a request that shows the seeds {', '.join(s.id for s in shown)} has {tokens} tokens; "
            f"allowed: at most {text_model.max_tokens - least}, the model's context of "
            f"{text_model.max_tokens} less {least} for tasks: shorter seeds, or fewer in a request "
            "(num_demonstrations)"
        )
    # Requests of like lengths have one limit, so that they can be decoded in one batch.
    return prompt, min(settings.max_new_tokens, max(room // _STEP * _STEP, least))


def write_instructions(
    directory: files.StrPath,
    seeds: Sequence[Seed],
    text_model: TextModel,
    settings: InstructionSettings,
    count: int,
    evaluation: Iterable[Row] = (),
    batch_size: int = 8,
) -> Counter[str]:
    """Writes tasks until at least `count` are kept; every request is filtered as a whole.

    An instructions.jsonl that was edited is left as it is, and a line says so.

    Args:
        directory: where the three files are.
        seeds: demonstrations, and tasks not to be repeated.
        text_model: the model.
        settings: how to ask, and what to drop.
        count: tasks to be kept.
        evaluation: rows that must not come back in a task.
        batch_size: requests given to the model at a time; does not change the files.

    Returns:
        How many tasks were 'kept', how many were dropped by reason, and 'requests'.

    Raises:
        ConfigError: the files were begun under other settings, requests.jsonl or rejected.jsonl
            was edited, or a prompt does not fit.
    """
    bounds.check_int("count", count, 1)
    bounds.check_int("batch_size", batch_size, 1)
    check_seeds(seeds, settings, text_model)
    place = files.path(directory)
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_run(place))
        requests = stack.enter_context(Journal(place / REQUESTS))
        kept, dropped = (Replayed(place / name, REQUESTS) for name in (INSTRUCTIONS, REJECTED))
        stack.callback(kept.close)
        stack.callback(dropped.close)
        task_filter = TaskFilter(settings.filters, seeds, evaluation)
        counts: Counter[str] = Counter()

        def put(task: Record) -> None:
            counts[task.get("reason", "kept")] += 1
            (dropped if "reason" in task else kept).put(task)

        for number in range(len(requests.records)):
            wanted = instruction_request(seeds, settings, text_model, number)
            _check_same(requests, number, _header(wanted, seeds, settings, text_model))
        counts["requests"] = len(requests.records)
        judged = [
            task for each in requests.records for task in _judged(each, settings, task_filter)
        ]
        if _is_edited(kept, dropped, judged, counts["requests"]):
            note(f"{place / INSTRUCTIONS}: was edited: it stays as it is, and no task is added")
            reasons = Counter(task["reason"] for task in judged if "reason" in task)
            return counts + reasons + Counter(kept=len(kept.old))
        for task in judged:
            put(task)
        progress = stack.enter_context(MinuteNotes("writing tasks", count, "tasks kept"))
        progress.find(counts["kept"])
        while counts["kept"] < count and counts["requests"] < settings.max_requests:
            first = counts["requests"]
            numbers = range(first, min(first + batch_size, settings.max_requests))
            batch = [instruction_request(seeds, settings, text_model, n) for n in numbers]
            for request, completion in zip(batch, completions(text_model, batch), strict=True):
                header = _header(request, seeds, settings, text_model)
                requests.append(header | _written(completion))
                counts["requests"] += 1
                for task in _judged(requests.records[-1], settings, task_filter):
                    put(task)
                progress.count(counts["kept"])
                if counts["kept"] >= count:
                    break
        kept.finish()
        dropped.finish()
    return counts


def _header(
    request: CompletionRequest,
    seeds: Sequence[Seed],
    settings: InstructionSettings,
    text_model: TextModel,
) -> Record:
    """What determines a completion."""
    shown = draw_demonstrations(seeds, settings, request.number)
    return {
        "request": request.number,
        "model": text_model.model,
        "method": text_model.method,
        "seed": settings.seed,
        "max_new_tokens": request.max_new_tokens,
        "demos": [seed.id for seed in shown],
        "prompt": prompt_hash(request.contexts),
    }


def _written(completion: Completion) -> Record:
    return {"completion": completion.text, "finish": completion.finish}


def _judged(
    record: Record, settings: InstructionSettings, task_filter: TaskFilter
) -> Iterable[Record]:
    """The tasks of a request as records of instructions.jsonl, or of rejected.jsonl."""
    pieces = parse_completion(
        record["completion"], settings.num_demonstrations + 1, record["finish"] == "length"
    )
    number = record["request"]
    origin = {key: record[key] for key in ("request", "demos", "model", "prompt", "seed")}
    for place, piece in enumerate(pieces):
        name = f"{settings.domain.replace(' ', '_')}-r{settings.round}-{number:05}-{place:02}"
        if piece.task is None:
            yield {"id": name, "text": piece.text, **origin, "reason": "unparsed"}
            continue
        instruction, text = piece.task
        verdict = task_filter.judge(instruction, text)
        task = {
            "id": name,
            "instruction": instruction,
            "input": text,
            **origin,
            "max_rouge_l": verdict.max_rouge_l,
            "nearest": verdict.nearest,
        }
        yield task if verdict.reason is None else task | {"reason": verdict.reason}


def _is_edited(kept: Replayed, dropped: Replayed, judged: Sequence[Record], requests: int) -> bool:
    """Whether somebody has edited the tasks that were kept.

    Other filters change both files, an editor this one alone. A file that was cut short by a kill
    lacks its last lines, and one that is ahead of requests.jsonl (in a bucket, which is written
    now and then) has lines of later requests.

    Args:
        kept: instructions.jsonl.
        dropped: rejected.jsonl.
        judged: what both should hold, by the requests that there are.
        requests: their number.
    """
    tasks = [as_read(task) for task in judged]
    if [task for task in tasks if "reason" in task] != list(dropped.old):
        return False
    expected = [task for task in tasks if "reason" not in task]
    common = min(len(expected), len(kept.old))
    later = (task.get("request") for task in kept.old[common:])
    return list(kept.old[:common]) != expected[:common] or not all(
        isinstance(request, int) and request >= requests for request in later
    )


def _check_same(requests: Journal, place: int, header: Record) -> None:
    """Raises ConfigError where an earlier run asked something else."""
    record, where = requests.records[place], f"{requests.path}: line {place + 1}"
    check_same(where, record, header, BEGUN_WITH)
    check_texts(where, record, ("completion", "finish"))


def prompt_hash(contexts: Sequence[str]) -> str:
    """Identifies what the model read."""
    return hashlib.sha256("\x1f".join(contexts).encode()).hexdigest()[:16]
