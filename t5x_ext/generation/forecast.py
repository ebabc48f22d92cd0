"""What a run of both stages will ask of a model, told before it runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from mixtures.specialization_prompts import NO_INPUT
from t5x_ext.generation.instructions import InstructionSettings, instruction_request
from t5x_ext.generation.records import Seed
from t5x_ext.generation.requests import Generator
from t5x_ext.generation.responses import ResponseSettings, response_request
from t5x_ext.retrieval import Index

# Self-Instruct and Alpaca report that about half of what is written survives the filters.
KEPT_SHARE = 0.5
_LISTED_TASKS = 20  # that the prompt asks for, demonstrations included
_MEASURED = 64  # prompts of each kind that are made and counted


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Tokens and prompts of a run.

    Attributes:
        requests: completions of the instruction prompt.
        instruction_prompt_tokens: read in the first stage.
        instruction_new_tokens: written in the first stage.
        response_prompts: prompts of the second stage, one a passage.
        response_prompt_tokens: read in the second stage.
        response_new_tokens: written in the second stage; passages of one task share them.
        samples: two instruction prompts and three response prompts, as the model would see them.
    """

    requests: int
    instruction_prompt_tokens: int
    instruction_new_tokens: int
    response_prompts: int
    response_prompt_tokens: int
    response_new_tokens: int
    samples: tuple[str, ...]


def forecast(
    seeds: Sequence[Seed],
    asking: InstructionSettings,
    answering: ResponseSettings,
    generator: Generator,
    count: int,
    index: Index | None = None,
) -> Forecast:
    """Counts the tokens of prompts, with seeds in the place of tasks that are not written yet.

    The tasks and answers that the model will write are assumed to be as long as those of the seeds,
    and `KEPT_SHARE` of the tasks to be kept.

    Args:
        seeds: as of `write_instructions`.
        asking: likewise.
        answering: as of `write_responses`.
        generator: counts tokens; need not complete.
        count: rows wanted.
        index: as of `write_responses`.
    """
    count_tokens = generator.count_tokens
    tasks_a_request = _LISTED_TASKS - asking.num_demonstrations
    requests = math.ceil(count / (tasks_a_request * KEPT_SHARE))
    numbers = range(max(2, min(requests, _MEASURED)))
    asked = [instruction_request(seeds, asking, generator, number) for number in numbers]
    prompt_tokens = _mean(count_tokens(request.contexts[0]) for request in asked)
    of_task = _mean(
        count_tokens(f"###\n9. Instruction: {s.instruction}\n9. Input:\n{s.input or NO_INPUT}\n")
        for s in seeds
    )
    written = min(tasks_a_request * of_task, _mean(r.max_new_tokens for r in asked))

    answered = []
    for number, seed in enumerate(list(seeds)[:_MEASURED]):
        task = {"id": seed.id, "instruction": seed.instruction, "input": seed.input}
        use = index is not None and answering.num_passages > 0
        query = f"{seed.instruction}\n{seed.input}"
        hits = index.search(query, answering.num_passages) if use and index else []
        answered.append(response_request(answering, generator, task, hits, number)[0])
    contexts = _mean(len(request.contexts) for request in answered)
    read = _mean(sum(count_tokens(text) for text in r.contexts) for r in answered)
    output = _mean(min(count_tokens(s.output) + 1, answering.max_new_tokens) for s in seeds)
    return Forecast(
        requests=requests,
        instruction_prompt_tokens=round(requests * prompt_tokens),
        instruction_new_tokens=round(requests * written),
        response_prompts=round(count * contexts),
        response_prompt_tokens=round(count * read),
        response_new_tokens=round(count * output),
        samples=tuple(request.contexts[0] for request in [*asked[:2], *answered[:3]]),
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
