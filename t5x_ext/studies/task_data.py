"""The examples of a study's cells, drawn from the tasks loaded whole."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import mixtures
from mixtures.budgets import parse_budget, select
from mixtures.names import escape, find_scope
from mixtures.specialization.names import PREFIX as SELF_PREFIX
from mixtures.specialization.tasks import fingerprint as self_fingerprint
from mixtures.splits import Splits, split_instances
from mixtures.writing.names import PREFIX as WRITING_PREFIX
from mixtures.writing.tasks import fingerprint as writing_fingerprint
from t5x_ext.data.opening import UNCUT, load_examples
from t5x_ext.data.records import Example
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.studies.arms import ZERO_SHOT
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.recipes import InitialModel


def fingerprint_named(name: str, split: str) -> str:
    """Hash of the rows of a SeqIO name's split."""
    if name.startswith(WRITING_PREFIX):
        return writing_fingerprint(name, split)
    if name.startswith(SELF_PREFIX):
        return self_fingerprint(name, split)
    digest = hashlib.sha256()
    for example in load_examples(mixtures.resolve(name), split, UNCUT):
        fields = (example.id, example.inputs_pretokenized, *example.references)
        digest.update("\x1f".join(fields).encode() + b"\x1e")
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class TaskData:
    """Examples by task, under the settings of `mixtures.configure`.

    A task is opened once per prompt with all its training examples; budgets are cut from that by
    the same rule that the SeqIO names use, so `superni.<prompt>.<task>.n100` with `budget_seed`
    equal to the cell's seed holds the same rows.

    Attributes:
      lengths: {'inputs': tokens, 'targets': tokens} of the cells.
      test_examples: of each task that are decoded, the first; None takes all.
    """

    lengths: Mapping[str, int]
    test_examples: int | None = None

    def train(self, cell: Cell) -> list[Example]:
        """Training examples of a cell; none for zero-shot."""
        arm = cell.arm
        if cell.budget == ZERO_SHOT or not arm.data:
            return self.budget(cell.tasks, arm.prompt, cell.budget, cell.seed)
        name = mixtures.resolve(arm.training_data(cell.budget), prompt=arm.prompt)
        return load_examples(name, "train", self.lengths)

    def fingerprint_named(self, name: str) -> str:
        """Hash of an arm's own training data."""
        return fingerprint_named(name, "train")

    def budget(self, tasks: Sequence[str], prompt: str, budget: str, seed: int) -> list[Example]:
        """Training examples of a cell: a nested subset per task; none for zero-shot."""
        if budget == ZERO_SHOT:
            return []
        order = mixtures.current_context().budget_order
        chosen = []
        for name in tasks:
            examples = self._load(name, prompt, "train")
            ids = [example.id for example in examples]
            chosen += [examples[i] for i in select(name, ids, budget, seed, order)]
        return chosen

    def test(self, tasks: Sequence[str], prompt: str) -> list[Example]:
        """Test examples of a cell, task by task."""
        return [
            example
            for name in tasks
            for example in self._load(name, prompt, "test")[: self.test_examples]
        ]

    def clean_answers(
        self, rows: Sequence[Prediction]
    ) -> tuple[Sequence[Prediction], dict[str, Any]]:
        """Answers as they are scored, and what a result file says of the cleaning."""
        return rows, {}

    def initial(self, initial: InitialModel) -> list[Example]:
        """Training examples of an initial model."""
        if initial.data is not None:
            name = mixtures.resolve(initial.data, prompt=initial.prompt)
        else:
            assert initial.scope is not None and initial.prompt is not None
            name = mixtures.task_name(initial.prompt, initial.scope, initial.budget)
        return load_examples(name, "train", initial.recipe.task_feature_lengths)

    def check_tasks(self, tasks: Sequence[str] | None) -> list[str]:
        """The study's tasks: those named, or all of the test track that have a file.

        Raises:
          mixtures.DataError: a task is not in the test track, or has no file.
        """
        store = mixtures.current_context().store
        if tasks is None:
            return list(store.names("test"))
        for name in tasks:
            scope = find_scope(escape(name), store)
            if scope.track != "test" or scope.tasks != (name,):
                raise mixtures.DataError(
                    f"study.tasks: '{name}' is not one task of the test track; "
                    "allowed: names of its test_tasks.txt"
                )
        return list(tasks)

    def category(self, name: str) -> str:
        """The task's category."""
        return mixtures.current_context().store.task(name).category

    def num_train(self, name: str) -> int:
        """Training instances that a task has under the split policy."""
        return len(self._splits(name).train)

    def is_leaked(self, name: str) -> bool:
        """Whether the split policy trains on rows that are tested."""
        return self._splits(name).leaked

    def short(self, tasks: Sequence[str], budget: str) -> dict[str, int]:
        """Training instances of the tasks that have fewer than the budget asks for, or none."""
        if budget == ZERO_SHOT:
            return {}
        wanted = parse_budget(budget).count(1)
        available = {name: self.num_train(name) for name in tasks}
        return {name: count for name, count in available.items() if count < wanted}

    def fingerprint(self, tasks: Sequence[str]) -> str:
        """Hash of the files of these tasks."""
        return mixtures.current_context().store.fingerprint(tasks)

    def _splits(self, name: str) -> Splits:
        context = mixtures.current_context()
        return split_instances(context.store.task(name), "test", context.split_policy)

    def _load(self, name: str, prompt: str, split: str) -> list[Example]:
        return load_examples(mixtures.task_name(prompt, name, "all"), split, self.lengths)
