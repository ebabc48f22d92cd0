"""How much work self-specialization is: rows of `self.*` names, and the texts that models write."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from mixtures.budgets import parse_budget
from mixtures.errors import DataError
from mixtures.specialization import rows as domains
from mixtures.specialization.names import PRETRAINING, parse_name
from mixtures.specialization_prompts import INSTRUCTIONS_TEMPLATE
from t5x_ext.generation.forecast import KEPT_TASKS
from t5x_ext.planning.lowering import Workload
from t5x_ext.planning.study_plans import TextSize
from t5x_ext.studies.generated_data import GeneratedData, tasks_owner

_CHARACTERS_A_TOKEN = 4.5  # of English in vocabularies of 32,000 pieces and more
_TASK_TOKENS = 120  # of an instruction with its input
_PASSAGE_TOKENS = 180
_TEMPLATE_TOKENS = 40  # of the prompt for an answer
_LISTED_TASKS = 20  # that a model is asked for, demonstrations included
_STEP = 64


def self_rows(name: str, split: str, data_dir: str | None) -> int:
    """Rows of a `self.*` name; 0 where its files are not here.

    Args:
      name: an evaluation set, or what a model learns first.
      split: of its files.
      data_dir: DATA_DIR.
    """
    parsed = parse_name(name)
    try:
        directory = domains.find_directory(data_dir)
        if parsed.parts == (PRETRAINING,):
            return len(domains.rows_of(parsed, "train", None))
        return len(domains.rows_of(dataclasses.replace(parsed, shots=0), split, directory))
    except DataError:
        return 0


def self_train_rows(name: str, data_dir: str | None) -> int:
    """Training rows of a `self.*` name: as many as it says, whether its files are here or not."""
    parsed = parse_name(name)
    if parsed.budget is None or not parsed.budget.startswith("n"):
        return self_rows(name, "train", data_dir)
    return parse_budget(parsed.budget).amount * len(parsed.parts)


def text_sizes(
    generated: Sequence[GeneratedData], wanted: dict[str, int], max_tokens: int
) -> tuple[TextSize, ...]:
    """Batches of texts that models write: lists of tasks, once each, and answers.

    Half of the tasks are taken to be kept, and prompts to be as long as those of the shipped
    domains are in the mean; texts are assumed to reach their maximum length.
    """
    by_name = {data.name: data for data in generated}
    lists: dict[str, int] = {}
    sizes = []
    for name, count in wanted.items():
        data = by_name[name]
        owner = tasks_owner(data, by_name)
        lists[owner.name] = max(lists.get(owner.name, 0), count)
        contexts = max(data.answering.num_passages, 1)
        passage = _PASSAGE_TOKENS if data.has_passages else 0
        sides = 1 if data.contrast is None else 2
        rows = data.batch_size * contexts * sides
        read = _round_up(_TEMPLATE_TOKENS + _TASK_TOKENS + passage)
        written = min(data.answering.max_new_tokens, max_tokens - read)
        load = Workload(rows, read, written)
        sizes.append(TextSize(f"answers of {name}", load, -(-count // data.batch_size)))
    for name, count in lists.items():
        sizes.append(_lists(by_name[name], count, max_tokens))
    return tuple(sizes)


def _lists(data: GeneratedData, count: int, max_tokens: int) -> TextSize:
    shown = data.asking.num_demonstrations
    template = round(len(INSTRUCTIONS_TEMPLATE) / _CHARACTERS_A_TOKEN)
    read = _round_up(template + shown * _TASK_TOKENS)
    written = max(_STEP, min(data.asking.max_new_tokens, max_tokens - read))
    # A list ends where its tokens do, on average in the middle of a task.
    listed = min(_LISTED_TASKS - shown, max(0.5, written / _TASK_TOKENS - 0.5))
    requests = min(math.ceil(count / (listed * KEPT_TASKS)), data.asking.max_requests)
    load = Workload(data.batch_size, read, written)
    return TextSize(f"tasks of {data.name}", load, -(-requests // data.batch_size))


def _round_up(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP
