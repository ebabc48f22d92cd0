"""What a study is a grid of, for what runs it and for what reports on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

SETTINGS = ("STL", "MTL")
ZERO_SHOT = "n0"  # the budget of models that are scored without tuning
GENERATED = "generated."  # data of this prefix is what a model of the study writes


@dataclasses.dataclass(frozen=True)
class Arm:
    """One line of a learning curve: one way to train, on growing budgets.

    Attributes:
      name: key of the arm in results and reports.
      setting: 'STL' tunes a model per task, 'MTL' one model for all tasks.
      initial: name of the initial model that it starts from.
      prompt: prompt name of `mixtures.prompts`.
      budgets: training examples per task: 'n100', 'p1', 'all', ...; 'n0' scores without tuning.
      baseline: whether reports compare the other arms with it.
      label: what reports call it; the name where empty.
      data: name of other training data than the study's tasks, as MIXTURE_OR_TASK_NAME takes it;
        `{count}` in it stands for the number of the budget ("writing.train.{count}"). Or
        "generated.<name>": the first rows, as many as the budget says, of what a model of the study
        writes; see `studies.generated_data.GeneratedData`.
    """

    name: str
    setting: str
    initial: str
    prompt: str
    budgets: Sequence[str]
    baseline: bool = False
    label: str = ""
    data: str = ""

    @property
    def generated(self) -> str:
        """Name of the `GeneratedData` that it is trained on; '' for other data."""
        return self.data.removeprefix(GENERATED) if self.data.startswith(GENERATED) else ""
