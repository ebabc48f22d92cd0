"""How many tasks and answers a model wrote, how many were kept, and why the others were dropped."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

from etils import epath

from t5x_ext import files
from t5x_ext.generation.instructions import INSTRUCTIONS, REJECTED
from t5x_ext.generation.journal import read_records
from t5x_ext.generation.responses import RESPONSES, TRAIN, AnswerFilter
from t5x_ext.json_fields import Fields

KEPT = "kept"
MADE = "made.json"  # of a study, whose tasks are apart from their answers


@dataclasses.dataclass(frozen=True)
class Yields:
    """What became of all that a model wrote.

    Attributes:
        tasks: 'kept', and dropped by reason; empty where the tasks are not there.
        answers: likewise.
        answers_at_limit: answers that ended at the most tokens allowed, kept or not.
        prompts_cut: prompts whose passage or input was cut to fit the model's context.
    """

    tasks: dict[str, int]
    answers: dict[str, int]
    answers_at_limit: int
    prompts_cut: int

    @property
    def num_tasks(self) -> int:
        """All of them, dropped ones included."""
        return sum(self.tasks.values())

    @property
    def num_answers(self) -> int:
        """All of them, dropped ones included."""
        return sum(self.answers.values())


def yields_of(rows: files.StrPath) -> Yields | None:
    """Counts the files that a train.jsonl follows from, of a round or of a study's generated data.

    Args:
        rows: the file's path; of another file, or where the answers are not there, None. A study
            may have asked for rows and have had no task to answer: then there are no files.

    Raises:
        ConfigError: a file is malformed.
    """
    place = files.path(rows).parent
    is_answered = files.is_file(place / RESPONSES)
    if files.path(rows).name != TRAIN or not (is_answered or files.is_file(place / MADE)):
        return None
    responses = read_records(place / RESPONSES) if is_answered else []
    trained = {row.get("id") for row in read_records(rows)} if is_answered else set()
    answers: Counter[str] = Counter()
    judge = AnswerFilter().judge  # how strict it was set matters only to what was kept
    for each in responses:
        reason = judge(each["instruction"], each["input"], each["output"], each["finish"])
        answers[KEPT if each["id"] in trained else reason or "other"] += 1
    return Yields(
        tasks=_count_tasks(_tasks_dir(place)),
        answers=dict(answers.most_common()),
        answers_at_limit=sum(each["finish"] == "length" for each in responses),
        prompts_cut=sum(bool(each.get("truncated")) for each in responses),
    )


def tasks_key(made: Fields) -> str:
    """Which of a study's generated data are the tasks of another: a directory beside its own.

    Raises:
        ConfigError: the made.json does not say.
    """
    key = made.text("tasks")
    if not re.fullmatch(r"[0-9a-f]{16}", key):
        raise made.error("tasks", "a directory of the study's generated data")
    return key


def _tasks_dir(place: epath.Path) -> epath.Path:
    made = place / MADE
    return place.parent / tasks_key(Fields(made)) if files.is_file(made) else place


def _count_tasks(place: epath.Path) -> dict[str, int]:
    if not files.is_file(place / INSTRUCTIONS) or not files.is_file(place / REJECTED):
        return {}
    reasons = Counter(task["reason"] for task in read_records(place / REJECTED))
    return {KEPT: len(read_records(place / INSTRUCTIONS))} | dict(reasons.most_common())
