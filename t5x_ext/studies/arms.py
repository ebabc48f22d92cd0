"""Arms: one line of a learning curve each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from t5x_ext import bounds, grids
from t5x_ext.decoding.methods import Method
from t5x_ext.decoding.requests import Limit
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.grids import SETTINGS, ZERO_SHOT
from t5x_ext.studies.recipes import InitialModel, Recipe

TUNINGS = ("", "full")
DECODED = ("decoding", "stop", "output_limit")  # how a tuned model answers
_OWN = ("data", "tuning", "recipe", *DECODED)


class DecodingSettings(NamedTuple):
    """How an arm decodes: the fields of `Arm` that say so."""

    decoding: Method | None
    stop: tuple[str, ...]
    output_limit: Limit | None

    def longest_output(self, most: int) -> int:
        """Most tokens of an answer, where TASK_FEATURE_LENGTHS allows `most`."""
        return most if self.output_limit is None else self.output_limit.longest(most)


@dataclasses.dataclass(frozen=True)
class Arm(grids.Arm):
    """Tuning one initial model, with one prompt, on growing budgets.

    `grids.Arm` has the fields that reports know too. By default an arm is trained on the study's
    tasks, tuned as the study's `MODEL` and `Recipe` say, and decoded greedily; the fields below are
    for arms that differ in one of these.

    Attributes:
      tuning: 'full' tunes all parameters although the study has LORA_RANK; '' is as the study.
      recipe: another way to tune; None is the study's.
      decoding: how test examples are decoded; None is greedy. Arms that differ in nothing else
        share one tuned model.
      stop: texts before which an answer ends.
      output_limit: most tokens of an answer by those of the text that it rewrites, or by the kind
        of its question; None is TASK_FEATURE_LENGTHS alone.
    """

    tuning: str = ""
    recipe: Recipe | None = None
    decoding: Method | None = None
    stop: Sequence[str] = ()
    output_limit: Limit | None = None

    def __post_init__(self) -> None:
        if self.tuning not in TUNINGS:
            raise ConfigError(f"Arm {self.name}: tuning {self.tuning!r}; allowed: 'full', ''")
        if self.data and self.setting != "MTL":
            raise ConfigError(f"Arm {self.name}: data with setting 'STL'; allowed: with 'MTL'")
        for budget in self.budgets if self.data else ():
            if not re.fullmatch(r"n\d+", str(budget)):
                raise ConfigError(
                    f"Arm {self.name}: budget {budget!r} with data; allowed: a count such as n100"
                )
        if self.setting not in SETTINGS:
            raise ConfigError(
                f"Arm {self.name}: setting {self.setting!r}; allowed: {', '.join(SETTINGS)}"
            )
        if not self.budgets:
            raise ConfigError(f"Arm {self.name}: budgets is empty; allowed: at least one")
        object.__setattr__(self, "budgets", tuple(str(budget) for budget in self.budgets))
        object.__setattr__(self, "stop", bounds.to_texts(f"Arm {self.name}: stop", self.stop))
        if self.decoding is not None and not isinstance(self.decoding, Method):
            raise ConfigError(
                f"Arm {self.name}: decoding {self.decoding!r:.60}; allowed: Greedy(...), "
                "Sampling(...) or Beam(...) of t5x_ext.decoding, or None"
            )
        if self.output_limit is not None and not isinstance(self.output_limit, Limit):
            raise ConfigError(
                f"Arm {self.name}: output_limit {self.output_limit!r:.60}; allowed: "
                "make_limit((64, 2, 32)) and the like, LimitByKind(...), or None"
            )

    def describe(self) -> dict[str, Any]:
        """The fields as JSON; the last six only where they are set, as older studies have them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in _OWN:
            if fields[name] in ("", None, ()):
                del fields[name]
            elif not isinstance(fields[name], str | tuple):
                value = fields[name]
                own = value.describe() if name == "recipe" else dataclasses.asdict(value)
                fields[name] = {"type": type(value).__name__} | own
        return fields

    @property
    def decoding_settings(self) -> DecodingSettings:
        """How it decodes."""
        return DecodingSettings(self.decoding, tuple(self.stop), self.output_limit)

    def training_data(self, budget: str) -> str:
        """The name of the data that this arm is trained on with a budget; '' for the tasks'."""
        return self.data.format(count=budget.removeprefix("n"))

    def runs(self, seeds: Sequence[int]) -> list[tuple[str, int]]:
        """Budget and seed of every run on the same tasks.

        Zero-shot scores do not depend on the seed: that budget is run with the first only.
        """
        return [
            (budget, seed)
            for budget in self.budgets
            for seed in (seeds[:1] if budget == ZERO_SHOT else seeds)
        ]


def recipes_of(
    recipe: Recipe, initials: Sequence[InitialModel], arms: Sequence[Arm]
) -> list[tuple[str, Recipe]]:
    """Every recipe of a study, after whose it is: the study's own, initial models' and arms'."""
    made = [(f"InitialModel {each.name}", each.recipe) for each in initials if each.is_tuned]
    own = [(f"Arm {arm.name}", arm.recipe) for arm in arms if arm.recipe is not None]
    return [("Recipe", recipe), *made, *own]


# The paper states 961 models without listing them. With these budgets the arms make 119 x 8 STL
# models, 8 MTL models and the baseline's own pre-finetuning: 961.
PAPER_BUDGETS: Mapping[str, tuple[str, ...]] = {
    "stl": ("p1", "n100", "n200", "n1000", "all"),
    "stl_baseline_1": ("n200",),
    "stl_baseline_2": ("n1000",),
    "stl_baseline_3": ("all",),
    "mtl": ("n10", "p1", "n100", "n200", "n1000", "all"),
    "mtl_baseline_1": ("n200",),
    "mtl_baseline_2": ("n1000",),
}

_LABELS = {
    "stl": "instruction-tuned",
    "stl_baseline_1": "pre-finetuned without instructions",
    "stl_baseline_2": "pretrained only",
    "stl_baseline_3": "pretrained only, all data (supervised SOTA)",
    "mtl": "instruction-tuned",
    "mtl_baseline_1": "pre-finetuned without instructions",
    "mtl_baseline_2": "pretrained only",
}


def paper_arms(
    budgets: Mapping[str, Sequence[str]] | None = None,
    only: Sequence[str] | None = None,
    instruction_prompt: str = "ql.def_pos2",
    plain_prompt: str = "ql.io",
    instruct: str = "instruct",
    plain: str = "plain",
    pretrained: str = "pretrained",
    labels: Mapping[str, str] | None = None,
) -> tuple[Arm, ...]:
    """The arms of Gupta et al. 2023 (arXiv:2306.05539).

    Args:
      budgets: budgets by arm name; arms not named keep the paper's.
      only: names of the arms to run; None runs all.
      instruction_prompt: prompt of the proposed arms.
      plain_prompt: prompt of the baselines, which see no instruction.
      instruct: name of the initial model tuned on instructions.
      plain: name of the initial model pre-finetuned on the same tasks without instructions.
      pretrained: name of the initial model that saw neither.
      labels: what reports call an arm, by its name; arms not named keep the paper's words.

    Raises:
      ConfigError: an arm's name is unknown.
    """
    for name in [*(budgets or {}), *(only or []), *(labels or {})]:
        if name not in PAPER_BUDGETS:
            raise ConfigError(f"paper_arms: unknown arm {name!r}{nearest(name, PAPER_BUDGETS)}")
    chosen = dict(PAPER_BUDGETS) | dict(budgets or {})

    def arm(name: str) -> Arm:
        setting, _, baseline = name.partition("_baseline_")
        initial = {"": instruct, "1": plain}.get(baseline, pretrained)
        return Arm(
            name=name,
            setting=setting.upper(),
            initial=initial,
            prompt=plain_prompt if baseline else instruction_prompt,
            budgets=chosen[name],
            baseline=bool(baseline),
            label=(labels or {}).get(name, _LABELS[name]),
        )

    return tuple(arm(name) for name in PAPER_BUDGETS if only is None or name in only)
