"""How much work a study of self-specialization is: its cells, and the texts that models write."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from mixtures.errors import DataError
from mixtures.specialization import rows as domains
from mixtures.specialization.names import PREFIX, PRETRAINING, SEEDS, parse_name
from mixtures.specialization_prompts import INSTRUCTIONS_TEMPLATE
from t5x_ext.errors import ConfigError
from t5x_ext.generation.forecast import KEPT_TASKS
from t5x_ext.planning.lowering import Workload
from t5x_ext.planning.study_plans import ModelSize, StudySize, TextSize
from t5x_ext.studies.arms import ZERO_SHOT, Arm
from t5x_ext.studies.generated_data import GeneratedData, tasks_owner, wanted_rows
from t5x_ext.studies.recipes import InitialModel, Recipe

TEST_ROWS = 200  # of a set whose file is not here, as most of those that are shipped have
_CHARACTERS_A_TOKEN = 4.5  # of English in vocabularies of 32,000 pieces and more
_TASK_TOKENS = 120  # of an instruction with its input
_PASSAGE_TOKENS = 180
_TEMPLATE_TOKENS = 40  # of the prompt for an answer
_LISTED_TASKS = 20  # that a model is asked for, demonstrations included
_STEP = 64


@dataclasses.dataclass(frozen=True)
class DomainCounts:
    """Counts rows of `self.*` names.

    Attributes:
      data_dir: DATA_DIR.
      test_examples: of each set that are decoded; None takes all.
    """

    data_dir: str | None
    test_examples: int | None

    def prompts(self, names: Sequence[str]) -> int:
        """Test rows of these sets; `TEST_ROWS` where a file is not here."""
        counts = [self._rows(name, "test") or TEST_ROWS for name in names]
        most = self.test_examples
        return sum(count if most is None else min(count, most) for count in counts)

    def missing(self, names: Sequence[str]) -> int:
        """How many sets have no file here."""
        return sum(not self._rows(name, "test") for name in names)

    def train_rows(self, arm: Arm, budget: str) -> int:
        """Rows that an arm is tuned on with a budget.

        Raises:
          ConfigError: its data is of another kind.
        """
        if budget == ZERO_SHOT:
            return 0
        count = int(budget.removeprefix("n"))
        if arm.generated:
            return count
        name = arm.training_data(budget)
        if not name.startswith(PREFIX):
            raise ConfigError(f"plan: Arm {arm.name}: data {name!r}; allowed: {PREFIX}<domain>...")
        parts = parse_name(name).parts
        return count * (1 if parts == (SEEDS,) else len(parts))

    def initial_rows(self, initial: InitialModel) -> int:
        """Rows that an initial model is tuned on."""
        name = initial.data or ""
        if not name.startswith(PREFIX) or not (count := self._rows(name, "train")):
            raise ConfigError(
                f"plan: InitialModel {initial.name}: data {name!r}; allowed: {PREFIX}<domain>... "
                "that is here"
            )
        return count

    def _rows(self, name: str, split: str) -> int:
        parsed = parse_name(name)
        try:
            directory = domains.find_directory(self.data_dir)
            if parsed.parts == (PRETRAINING,):
                return len(domains.rows_of(parsed, "train", None))
            return len(domains.rows_of(dataclasses.replace(parsed, shots=0), split, directory))
        except DataError:
            return 0


def domain_study_size(
    arms: Sequence[Arm],
    initials: Sequence[InitialModel],
    recipe: Recipe,
    seeds: Sequence[int],
    tasks: Sequence[str],
    generated: Sequence[GeneratedData],
    counts: DomainCounts,
    max_tokens: int,
) -> StudySize:
    """Counts models, steps, prompts and written texts; see `sizes.study_size`.

    Args:
      arms: the arms.
      initials: the initial models.
      recipe: how cells are tuned.
      seeds: one cell each.
      tasks: names of evaluation sets.
      generated: what models write.
      counts: of rows.
      max_tokens: of the model's context.
    """
    prompts = counts.prompts(tasks)

    def steps_of(rows: int, own: Recipe) -> int:
        return own.num_steps(own.epochs * -(-rows // own.batch_size)) if rows else 0

    models = []
    for arm in arms:
        own = arm.recipe or recipe
        for budget, _ in arm.runs(seeds):
            steps = steps_of(counts.train_rows(arm, budget), own)
            models.append(ModelSize(arm.initial, steps, prompts, trainer=own.trainer(steps)))
    for initial in initials:
        if initial.is_tuned:
            steps = steps_of(counts.initial_rows(initial), initial.recipe)
            models.append(ModelSize(initial.name, steps, prompts=0, is_initial=True))
    texts = text_sizes(generated, wanted_rows(arms), max_tokens)
    return StudySize(tuple(models), len(tasks), counts.missing(tasks), texts)


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
