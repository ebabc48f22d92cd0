"""Training data that a model of the study writes for itself, and the keys it goes by."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mixtures
from mixtures.budgets import select
from mixtures.records import Row
from mixtures.specialization import rows as domains
from mixtures.specialization.names import PREFIX, SEEDS, SelfName
from mixtures.specialization_prompts import INSTRUCTIONS_TEMPLATE, RESPONSE_TEMPLATE
from t5x_ext import bounds
from t5x_ext.decoding import Contrastive, Greedy, Sampling
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.generation import InstructionSettings, ResponseSettings, Seed
from t5x_ext.generation.records import read_seeds
from t5x_ext.retrieval import BM25, Corpus, open_index
from t5x_ext.studies.arms import ZERO_SHOT, Arm
from t5x_ext.studies.cells import RESULT_VERSION, digest
from t5x_ext.studies.recipes import Recipe

if TYPE_CHECKING:
    from t5x_ext.generation.rounds import Round
    from t5x_ext.models import BaseTransformerModel

TunedKey = Callable[[Arm, str, int], str]


@dataclasses.dataclass(frozen=True)
class GeneratedData:
    """Rows that a model of the study writes, as one round of self-specialization.

    Attributes:
      name: arms are trained on it as data = "generated.<name>".
      domain: whose seeds and corpus; see `mixtures.specialization.rows`.
      writer: who writes: an initial model, or an arm: then its model of the last budget and the
        study's first seed.
      asking: how tasks are asked for, and which are dropped.
      answering: how they are answered, and which answers are dropped.
      tasks_of: other generated data whose tasks are answered again; '' has the writer write some.
      contrast: sets the writer, an arm, against the initial model that it was tuned from.
      num_seeds: of the domain's seeds, the sample that `self.<domain>.seeds.n20` is of 20; None
        takes all.
      bm25: how passages are found.
      batch_size: texts written at a time; does not change them.
    """

    name: str
    domain: str
    writer: str
    asking: InstructionSettings
    answering: ResponseSettings
    tasks_of: str = ""
    contrast: Contrastive | None = None
    num_seeds: int | None = None
    bm25: BM25 = BM25()
    instruction_decoding: Sampling = Sampling(temperature=1.0, top_p=0.98)
    response_decoding: Greedy = Greedy()
    batch_size: int = 8

    def __post_init__(self) -> None:
        bounds.check_int("GeneratedData.batch_size", self.batch_size, 1, bounds.MAX_ROWS)
        if self.num_seeds is not None:
            bounds.check_int("GeneratedData.num_seeds", self.num_seeds, 1)

    @property
    def has_passages(self) -> bool:
        """Whether tasks are answered with passages of the corpus."""
        return self.answering.num_passages > 0

    def round(self, num_rows: int) -> Round:
        """What it is made from; opens the corpus' index."""
        from t5x_ext.generation.rounds import Round  # which imports the networks

        domain = Domain(self.domain)
        return Round(
            seeds=domain.seeds(self.num_seeds),
            asking=self.asking,
            answering=self.answering,
            evaluation=domain.evaluation,
            index=open_index(domain.corpus, self.bm25) if self.has_passages else None,
            num_rows=num_rows,
            instruction_decoding=self.instruction_decoding,
            response_decoding=self.response_decoding,
            contrast=self.contrast or Contrastive(),
            batch_size=self.batch_size,
        )


@dataclasses.dataclass(frozen=True)
class Domain:
    """A domain's files, under the settings of `mixtures.configure`."""

    name: str

    @property
    def _directory(self) -> Any:
        return domains.find_directory(mixtures.current_context().data_dir)

    def seeds(self, count: int | None = None) -> list[Seed]:
        """Tasks with answers, in the order of the file: all, or a sample of them."""
        found = read_seeds(domains.domain_file("seeds", self.name, self._directory))
        if count is None:
            return found
        chosen = select(SEEDS, [seed.id for seed in found], min(count, len(found)))
        return [found[i] for i in chosen]

    @property
    def corpus(self) -> Corpus:
        """Passages."""
        return Corpus(domains.domain_file("corpus", self.name, self._directory))

    @property
    def evaluation(self) -> list[Row]:
        """Test rows of all sets, whichever a study takes: its data then is the same for all."""
        sets = domains.set_names(self.name, self._directory)
        return [
            row
            for one in sets
            for row in domains.rows_of(SelfName(self.name, (one,)), "test", self._directory)
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class GeneratedKeys:
    """Keys of a study's generated data: of its tasks, and of its rows.

    Attributes:
      by_name: how each is stated.
      initial_keys: keys of initial models by name.
      arms: the study's, by name.
      seed: the study's first.
      tuned_key: arm, budget and seed -> key of the tuned model.
      model: the model settings that determine results.
    """

    by_name: Mapping[str, GeneratedData]
    initial_keys: Mapping[str, str]
    arms: Mapping[str, Arm]
    seed: int
    tuned_key: TunedKey
    model: Mapping[str, Any]

    def get(self, name: str) -> GeneratedData:
        """The data of that name; see `find_generated`."""
        return find_generated(self.by_name, name)

    def level(self, name: str, seen: Sequence[str] = ()) -> int:
        """How many models have to be tuned before the rows can be written.

        Raises:
          ConfigError: it depends on itself.
        """
        if name in seen:
            circle = " -> ".join([*seen, name])
            raise ConfigError(f"GeneratedData {name}: depends on itself: {circle}")
        data, seen = self.get(name), [*seen, name]
        arm = self.arms.get(data.writer)
        levels = [1 + self.level(arm.generated, seen) if arm.generated else 1] if arm else [0]
        levels += [self.level(data.tasks_of, seen)] if data.tasks_of else []
        return max(levels)

    def writer(self, name: str) -> str:
        """Key of the parameters that write it.

        Raises:
          ConfigError: there is no such model.
        """
        data = self.get(name)
        if data.writer in self.initial_keys:
            return self.initial_keys[data.writer]
        arm = self.arms.get(data.writer)
        if arm is None or not arm.data or arm.budgets[-1] == ZERO_SHOT or arm.tuning:
            known = ", ".join(self.initial_keys)
            raise ConfigError(
                f"GeneratedData {name}: writer {data.writer!r}; allowed: an initial model "
                f"({known}), or an arm that tunes adapters on its own data"
            )
        return self.tuned_key(arm, arm.budgets[-1], self.seed)

    @functools.cache  # noqa: B019 (as long as the study)
    def tasks(self, name: str) -> str:
        """Key of the tasks that are answered."""
        self.level(name)
        data = tasks_owner(self.get(name), self.by_name)
        domain = Domain(data.domain)
        return digest(
            {
                "version": RESULT_VERSION,
                "model": self.model,
                "writer": self.writer(data.name),
                "seeds": [dataclasses.asdict(seed) for seed in domain.seeds(data.num_seeds)],
                "evaluation": [(row.task, row.input, row.references) for row in domain.evaluation],
                "asking": dataclasses.asdict(data.asking),
                "decoding": dataclasses.asdict(data.instruction_decoding),
                "template": INSTRUCTIONS_TEMPLATE,
            }
        )

    @functools.cache  # noqa: B019
    def rows(self, name: str) -> str:
        """Key of the rows; their number plays no part, as the first ones are always the same."""
        data = self.get(name)
        passages = {}
        if data.has_passages:
            corpus = Domain(data.domain).corpus.digest
            passages = {"corpus": corpus, "bm25": dataclasses.asdict(data.bm25)}
        return digest(
            {
                "tasks": self.tasks(name),
                "writer": self.writer(name),
                "contrast": data.contrast and dataclasses.asdict(data.contrast),
                "answering": dataclasses.asdict(data.answering),
                "decoding": dataclasses.asdict(data.response_decoding),
                "template": RESPONSE_TEMPLATE,
                **passages,
            }
        )


def find_generated(by_name: Mapping[str, GeneratedData], name: str) -> GeneratedData:
    """The generated data of that name.

    Raises:
      ConfigError: there is none.
    """
    if name not in by_name:
        raise ConfigError(
            f"Arm.data: 'generated.{name}' is not among the study's generated data; "
            f"known: {', '.join(by_name) or 'none'}"
        )
    return by_name[name]


def tasks_owner(data: GeneratedData, by_name: Mapping[str, GeneratedData]) -> GeneratedData:
    """The data that asks for the tasks which `data` answers: itself, or where `tasks_of` ends.

    Args:
      data: any of a study's.
      by_name: all of them.

    Raises:
      ConfigError: `tasks_of` names none, or leads back to where it began.
    """
    owner, seen = data, [data.name]
    while owner.tasks_of:
        seen.append(owner.tasks_of)
        if owner.tasks_of not in by_name:
            raise ConfigError(
                f"GeneratedData {owner.name}: tasks_of {owner.tasks_of!r}"
                f"{nearest(owner.tasks_of, by_name)}"
            )
        if owner.tasks_of in seen[:-1]:
            raise ConfigError(f"GeneratedData {data.name}: depends on itself: {' -> '.join(seen)}")
        owner = by_name[owner.tasks_of]
    return owner


def wanted_rows(arms: Sequence[Arm]) -> dict[str, int]:
    """Rows that are wanted of each generated data, by name."""
    wanted: dict[str, int] = {}
    for arm in arms:
        if arm.generated:
            counts = [int(budget.removeprefix("n")) for budget in arm.budgets]
            wanted[arm.generated] = max(wanted.get(arm.generated, 0), *counts)
    return wanted


def check_generated(
    generated: Sequence[GeneratedData],
    arms: Sequence[Arm],
    recipe: Recipe,
    tasks: Sequence[str] | None,
    model: BaseTransformerModel,
) -> None:
    """Checks generated data against the study that tunes on it.

    Raises:
      ConfigError: the study is of other sets; its model has an encoder, or a context in which a
        request or an answer has no room; or it tunes on less than what its models may answer: an
        answer that is cut, and closed by EOS, teaches to stop in the middle.
    """
    if generated and model.config.has_encoder:
        raise ConfigError(
            f"GENERATED: a {model.config.family} model has an encoder; allowed: decoder-only "
            "models, which write data for themselves"
        )
    if generated and not all(name.startswith(PREFIX) for name in tasks or ("",)):
        raise ConfigError(f"TASKS: with generated data allowed: {PREFIX}<domain>.<set>")
    by_name = {data.name: data for data in generated}
    for arm in arms:
        data = by_name.get(arm.generated)
        targets = (arm.recipe or recipe).task_feature_lengths["targets"]
        if data and data.answering.max_new_tokens > targets:
            raise ConfigError(
                f"Arm {arm.name}: tuned on answers of up to {data.answering.max_new_tokens} tokens "
                f"(ResponseSettings.max_new_tokens); allowed: up to {targets}, which is its "
                "recipe's task_feature_lengths['targets']"
            )
    for name in wanted_rows(arms):
        if name in by_name:  # of another, `GeneratedKeys` tells
            data = by_name[name]
            _check_context(data, tasks_owner(data, by_name), model)


def _check_context(data: GeneratedData, owner: GeneratedData, model: BaseTransformerModel) -> None:
    """Raises ConfigError where the model's context has no room for a request, or an answer.

    Args:
      data: answers tasks.
      owner: whose tasks they are, see `tasks_owner`.
      model: who writes.
    """
    from t5x_ext.generation.answering import check_room
    from t5x_ext.generation.instructions import check_seeds
    from t5x_ext.generation.requests import TextModel
    from t5x_ext.generation.text_models import token_counter

    longest = model.config.max_length
    if longest is None:
        return
    counter = token_counter(model.output_vocabulary)
    text_model = TextModel(lambda requests: (), counter, longest, "", "none")
    seeds = Domain(data.domain).seeds(data.num_seeds)
    try:
        check_seeds(Domain(owner.domain).seeds(owner.num_seeds), owner.asking, text_model)
        check_room(data.answering, text_model, seeds)
    except ConfigError as error:
        raise ConfigError(f"GeneratedData {data.name}: {error}") from None
