"""How models are tuned, and where they start. Plain data, because cells are keyed by it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from t5x_ext import bounds
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel
from t5x_ext.schedules import LearningRateFn, create_learning_rate_scheduler, rate_twice
from t5x_ext.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A way to tune. The defaults are the paper's: 2 epochs at a constant 5e-5, 1024/128 tokens.

    Attributes:
      task_feature_lengths: {'inputs': tokens, 'targets': tokens}, at most, EOS included.
      batch_size: examples, global; rows where `pack` is True.
      epochs: passes over the training examples.
      min_steps: at least this many steps, however few the examples (then in more passes).
      steps: exactly this many steps instead.
      learning_rate: peak.
      factors: schedule, see `create_learning_rate_scheduler`; after warm-up, `linear_decay` (which
        needs no other factor) and `cosine_decay` reach zero at the last step.
      warmup_steps: for `linear_warmup`.
      warmup_share: share of a run's steps to warm up in instead, for arms whose runs differ in
        length.
      pack: put several examples into one row. "batch" joins those of each batch in as few rows as
        hold them: steps see the same examples as without packing, in less time.
      num_microbatches: parts of a batch processed one after the other.
    """

    task_feature_lengths: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"inputs": 1024, "targets": 128}
    )
    batch_size: int = 16
    epochs: int = 2
    min_steps: int = 0
    steps: int | None = None
    learning_rate: float = 5e-5
    factors: str = "constant"
    warmup_steps: int = 0
    warmup_share: float = 0.0
    pack: bool | str = False
    num_microbatches: int = 1

    def __post_init__(self) -> None:
        bounds.check_lengths("Recipe.task_feature_lengths", self.task_feature_lengths)
        bounds.check_int("Recipe.batch_size", self.batch_size, 1, bounds.MAX_ROWS)
        for field, low in (("epochs", 1), ("num_microbatches", 1), ("min_steps", 0)):
            bounds.check_int(f"Recipe.{field}", getattr(self, field), low)
        bounds.check_int("Recipe.warmup_steps", self.warmup_steps, 0)
        bounds.check_real("Recipe.warmup_share", self.warmup_share, 0, 1)
        if self.warmup_share and self.warmup_steps:
            raise ConfigError(
                f"Recipe: warmup_steps {self.warmup_steps} and warmup_share {self.warmup_share}; "
                "allowed: one of them"
            )
        if self.steps is not None:
            bounds.check_int("Recipe.steps", self.steps, 1)
        bounds.check_pack("Recipe.pack", self.pack)
        bounds.check_real("Recipe.learning_rate", self.learning_rate, 0)
        if twice := rate_twice(self.factors):
            raise ConfigError(f"Recipe.factors: {twice}")

    def describe(self) -> dict[str, Any]:
        """The fields as JSON; `warmup_share` only where it is set, as older studies have them."""
        fields = dataclasses.asdict(self)
        if not self.warmup_share:
            del fields["warmup_share"]
        return fields

    def check_model(self, model: BaseTransformerModel, owner: str) -> None:
        """Raises ConfigError for rows too long for the model, or that its loss does not allow."""
        lengths = dict(self.task_feature_lengths)
        model.check_context(lengths, f"{owner}: task_feature_lengths {lengths}")
        model.check_pack(self.pack, f"{owner}: pack")

    def warmup_remark(self) -> str:
        """What to say where `steps` end before the warm-up does, as in a run cut short; or ''."""
        warms_up = "linear_warmup" in self.factors or "linear_decay" in self.factors
        if not (warms_up and self.steps and self.steps <= self.warmup_steps):
            return ""
        return (
            f"warmup_steps {self.warmup_steps} of {self.steps} steps, so the learning rate stays "
            "below its peak; warmup_share would follow the number of steps"
        )

    def num_steps(self, steps_for_epochs: int) -> int:
        """Steps of a run whose `epochs` take `steps_for_epochs`."""
        return self.steps or max(steps_for_epochs, self.min_steps)

    def trainer(self, num_steps: int) -> Trainer:
        """The train step's settings for a run of that many steps.

        Equal arguments give equal trainers, which share one compiled step: only a decaying
        schedule, and a warm-up by share, depend on the length of the run.
        """
        warmup_steps = self.warmup_steps or round(self.warmup_share * num_steps)
        decay_steps = max(num_steps - warmup_steps, 1) if "decay" in self.factors else 1
        schedule = _schedule(self.factors, self.learning_rate, warmup_steps, decay_steps)
        return Trainer(self.num_microbatches, schedule)


@functools.cache
def _schedule(factors: str, peak: float, warmup_steps: int, decay_steps: int) -> LearningRateFn:
    """One function object per schedule, so that equal trainers compare equal."""
    return create_learning_rate_scheduler(
        factors,
        peak,
        warmup_steps,
        decay_factor=1.0 / decay_steps,
        steps_per_cycle=decay_steps,
    )


@dataclasses.dataclass(frozen=True)
class InitialModel:
    """Parameters that cells start from: given by path, made by the study, or random.

    Attributes:
      name: what arms call it.
      label: what reports call it.
      path: a checkpoint; None makes it here.
      base: name of the initial model that it is tuned from; None is random parameters.
      scope: what it is tuned on: 'pretune' is the train track; None leaves the base as it is.
      data: what it is tuned on instead, as MIXTURE_OR_TASK_NAME takes it ("writing.generic").
      prompt: prompt of that tuning; None is that of the data.
      budget: examples per task of that tuning.
      recipe: how it is tuned.
      seed: of dropout and data order, and of the random parameters it is tuned from. Without
        path, base and scope, every cell draws its own parameters from its own seed.
    """

    name: str
    label: str = ""
    path: str | None = None
    base: str | None = None
    scope: str | None = None
    data: str | None = None
    prompt: str | None = "ql.def_pos2"
    budget: str = "n100"
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    seed: int = 0

    def __post_init__(self) -> None:
        bounds.check_seed(f"InitialModel {self.name}: seed", self.seed)
        if self.path and (self.is_tuned or self.base):
            raise ConfigError(
                f"InitialModel {self.name}: set either path, or base and scope, not both"
            )
        if self.scope and self.data:
            raise ConfigError(f"InitialModel {self.name}: set either scope or data, not both")

    @property
    def is_random(self) -> bool:
        """Whether it is neither given nor tuned from anything: fresh parameters for every seed."""
        return self.path is None and self.base is None and not self.is_tuned

    @property
    def is_tuned(self) -> bool:
        """Whether the study makes it, by training."""
        return self.scope is not None or self.data is not None
