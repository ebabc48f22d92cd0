"""The test sets of a study that have their own names, such as `writing.jfleg`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import mixtures
from mixtures import on_demand
from mixtures.specialization.names import PREFIX as SELF_PREFIX
from mixtures.specialization.names import parse_name as parse_self_name
from mixtures.writing.names import PREFIX as WRITING_PREFIX
from mixtures.writing.postprocessing import clean_answers
from t5x_ext.data.opening import load_examples
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.studies.arms import ZERO_SHOT
from t5x_ext.studies.task_data import TaskData, fingerprint_named


def is_named(name: str) -> bool:
    """Whether a task of a study is a name or a file of its own, not a task of the release."""
    ours = (WRITING_PREFIX, SELF_PREFIX)
    return name.startswith(ours) or name.endswith(".jsonl") or on_demand.is_known(name)


def without_data(tasks: Sequence[str], budget: str) -> ConfigError:
    """What is wrong with an arm that does not say what it is trained on, on named tasks."""
    return ConfigError(
        f"Arm: budget {budget} without data; in a study of {tasks[0]} and the like an arm "
        'says what it is trained on, as data = "writing.train.{count}"'
    )


def make_task_data(
    tasks: Sequence[str] | None, lengths: Mapping[str, int], test_examples: int | None
) -> TaskData:
    """The examples of a study's tasks: those of a SuperNI release, or any names.

    Args:
      tasks: TASKS; None is the whole test track of the release.
      lengths: see `TaskData`.
      test_examples: see `TaskData`.

    Raises:
      ConfigError: the names are of both kinds.
    """
    named = [name for name in tasks or () if is_named(name)]
    if named and len(named) < len(tasks or ()):
        others = ", ".join(sorted(set(tasks or ()) - set(named)))
        raise ConfigError(
            f"TASKS: {named[0]} and the like together with tasks of the release ({others}); "
            "allowed: one kind"
        )
    return (NamedData if named else TaskData)(lengths, test_examples)


@dataclasses.dataclass(frozen=True)
class NamedData(TaskData):
    """Test sets by name. Arms say themselves what they are trained on, see `Arm.data`."""

    def budget(self, tasks: Sequence[str], prompt: str, budget: str, seed: int) -> list[Example]:
        if budget == ZERO_SHOT:
            return []
        raise without_data(tasks, budget)

    def clean_answers(
        self, rows: Sequence[Prediction]
    ) -> tuple[Sequence[Prediction], dict[str, Any]]:
        """Cuts what comes after an answer to a writing task; see `mixtures.writing.postprocessing`.

        Rows of your own that have a source are writing tasks too. A result file says how many
        answers each step changed.
        """
        places = [i for i, r in enumerate(rows) if r.source or r.task.startswith(WRITING_PREFIX)]
        if not places:
            return rows, {}
        texts, counts = clean_answers(
            [rows[i].prediction for i in places], [rows[i].source or "" for i in places]
        )
        cleaned = list(rows)
        for i, text in zip(places, texts, strict=True):
            cleaned[i] = dataclasses.replace(rows[i], prediction=text)
        return cleaned, {"cleaned_answers": counts}

    def check_tasks(self, tasks: Sequence[str] | None) -> list[str]:
        return list(tasks or ())

    def category(self, name: str) -> str:
        examples = self._load(name, None, "test")  # before it is asked what it is scored with
        if name.startswith(SELF_PREFIX):
            return f"{parse_self_name(name).shots}-shot"
        return examples[0].category or name

    def num_train(self, name: str) -> int:
        return 0

    def is_leaked(self, name: str) -> bool:
        return False

    def short(self, tasks: Sequence[str], budget: str) -> dict[str, int]:
        return {}

    def fingerprint(self, tasks: Sequence[str]) -> str:
        rows = [fingerprint_named(name, "test") for name in tasks]
        return hashlib.sha256("".join(rows).encode()).hexdigest()

    def _load(self, name: str, prompt: str | None, split: str) -> list[Example]:
        examples = load_examples(mixtures.resolve(name, prompt=prompt), split, self.lengths)
        # Scores go by the name that the study has for the set.
        return [dataclasses.replace(example, task=name) for example in examples]
