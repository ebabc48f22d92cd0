"""The arms of Zhang et al. 2023, "Multi-Task Instruction Tuning of LLaMa for Specific Scenarios".

All tuned models start from one base and make the same number of steps; they differ in their data,
in what is tuned, and in how they decode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mixtures.writing.sets import GENERIC, TRAINED
from t5x_ext.decoding import Beam, Sampling
from t5x_ext.decoding.requests import make_limit
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.studies.arms import ZERO_SHOT, Arm
from t5x_ext.studies.recipes import Recipe

PROMPT = "alpaca_lora"
_MIXED = "writing.mixed"
_BEAM = Beam(num_beams=4, length_penalty=1.0, style="hf")
_TOP_P = Sampling(temperature=0.2, top_p=0.7)


def writing_arms(
    generic: int = 52_002,
    budgets: Sequence[str] = ("n10000",),
    base: str = "base",
    full: Recipe | None = None,
    decodings: bool = True,
    sampling_seeds: Sequence[int] = (0, 1, 2),
    generic_set: str = GENERIC,
    writing_only_budgets: Sequence[str] | None = None,
    other_generic_sets: Sequence[str] = (),
    gec_rows: int | None = None,
    gec_set: str = "clang8",
    specialists: bool = False,
    output_limit: Sequence[float] | None = (64, 2, 32),
    only: Sequence[str] | None = None,
) -> tuple[Arm, ...]:
    """The paper's arms, and the proposed one at several numbers of writing rows.

    Args:
      generic: rows of generic instructions.
      budgets: rows of each of the six trained writing tasks; the last is that of all other arms.
      base: name of the initial model.
      full: how all parameters are tuned; None leaves that arm out.
      decodings: whether the proposed model decodes by beam search and by sampling as well.
      sampling_seeds: the seeds to sample with, an arm each, to see how far samples differ:
        "writing_alpaca_top_p" has the first, "writing_alpaca_top_p_1" seed 1.
      generic_set: the set that generic rows come from.
      writing_only_budgets: of the arm without generic rows, to see how many writing rows these
        save; None is the last of `budgets`.
      other_generic_sets: sets with other generic rows, an arm each under the set's own name, to
        see what their quality is worth: ("alpaca_gpt4",).
      gec_rows: rows of `gec_set` that `gec_lora` is tuned on alone; None leaves that arm out.
      gec_set: pairs of a text and its correction.
      specialists: whether to tune a model for each writing task alone ("writing_stl_fluency"),
        to see what mixing tasks costs. With adapters EXPERTS tunes them side by side.
      output_limit: most tokens of an answer, the numbers of an `OutputLimit`: 64, or twice those of
        its source and 32, whichever is more; None is TASK_FEATURE_LENGTHS alone.
      only: names of the arms to run; None runs all.

    Raises:
      ConfigError: an arm's name is unknown, or `output_limit` is none.
    """
    most = tuple(budgets)[-1:]
    writing = ".".join(f"{task}_{{count}}" for task in TRAINED)
    generic_rows = f"{_MIXED}.{generic_set}_{generic}"
    mixed = f"{generic_rows}.{writing}"

    limit = None if output_limit is None else make_limit(output_limit)

    def arm(name: str, label: str, data: str, own_budgets: Sequence[str] = most, **more) -> Arm:
        return Arm(
            name,
            "MTL",
            base,
            PROMPT,
            own_budgets,
            label=label,
            data=data,
            output_limit=limit,
            **more,
        )

    arms = [
        arm("base", "not tuned", mixed, (ZERO_SHOT,), baseline=True),
        arm("alpaca", "generic data", generic_rows, baseline=True),
        *(
            arm(name, f"generic data, {name}", f"{_MIXED}.{name}_{generic}", baseline=True)
            for name in other_generic_sets
        ),
        arm(
            "writing_only",
            "writing data",
            f"{_MIXED}.{writing}",
            writing_only_budgets or most,
            baseline=True,
        ),
        arm("writing_alpaca", "generic and writing data", mixed, budgets),
    ]
    if full is not None:
        label = "generic and writing data, all parameters"
        arms.append(arm("writing_alpaca_full", label, mixed, tuning="full", recipe=full))
    if decodings:
        label = "generic and writing data, by beam search"
        arms.append(arm("writing_alpaca_beam4", label, mixed, decoding=_BEAM))
        for place, seed in enumerate(sampling_seeds):
            name = "writing_alpaca_top_p" + (f"_{seed}" if place else "")
            label = "generic and writing data, by sampling" + (f" (seed {seed})" if place else "")
            decoding = dataclasses.replace(_TOP_P, seed=seed)
            arms.append(arm(name, label, mixed, decoding=decoding))
    if gec_rows is not None:
        data = f"{_MIXED}.{gec_set}_{gec_rows}"
        arms.append(arm("gec_lora", f"corrections of {gec_set} alone", data))
    if specialists:
        for task in TRAINED:
            arms.append(arm(f"writing_stl_{task}", f"{task} alone", f"{_MIXED}.{task}_{{count}}"))
    known = [each.name for each in arms]
    for name in only or ():
        if name not in known:
            raise ConfigError(f"writing_arms: unknown arm {name!r}{nearest(name, known)}")
    return tuple(each for each in arms if only is None or each.name in only)
