"""The arms of Zhang et al. 2023, "Multi-Task Instruction Tuning of LLaMa for Specific Scenarios".

All tuned models start from one base and make the same number of steps; they differ in their data,
in what is tuned, and in how they decode.
"""

from __future__ import annotations

from collections.abc import Sequence

from mixtures.writing.sets import GENERIC, TRAINED
from t5x_ext.decoding import Beam, Sampling
from t5x_ext.studies.arms import ZERO_SHOT, Arm
from t5x_ext.studies.recipes import Recipe

PROMPT = "alpaca_lora"


def writing_arms(
    generic: int = 52_002,
    budgets: Sequence[str] = ("n10000",),
    base: str = "base",
    full: Recipe | None = None,
    decodings: bool = True,
    generic_set: str = GENERIC,
    writing_only_budgets: Sequence[str] | None = None,
) -> tuple[Arm, ...]:
    """The paper's arms, and the proposed one at several numbers of writing rows.

    Args:
      generic: rows of generic instructions.
      budgets: rows of each of the six trained writing tasks; the last is that of all other arms.
      base: name of the initial model.
      full: how all parameters are tuned; None leaves that arm out.
      decodings: whether the proposed model decodes by beam search and by sampling as well.
      generic_set: the set that generic rows come from.
      writing_only_budgets: of the arm without generic rows, to see how many writing rows these
        save; None is the last of `budgets`.
    """
    most = tuple(budgets)[-1:]
    writing = ".".join(f"{task}_{{count}}" for task in TRAINED)
    generic_rows = f"writing.mixed.{generic_set}_{generic}"
    mixed = f"{generic_rows}.{writing}"

    def arm(name: str, label: str, data: str, own_budgets: Sequence[str] = most, **more) -> Arm:
        return Arm(name, "MTL", base, PROMPT, own_budgets, label=label, data=data, **more)

    arms = [
        arm("base", "not tuned", mixed, (ZERO_SHOT,), baseline=True),
        arm("alpaca", "generic data", generic_rows, baseline=True),
        arm(
            "writing_only",
            "writing data",
            f"writing.mixed.{writing}",
            writing_only_budgets or most,
            baseline=True,
        ),
        arm("writing_alpaca", "generic and writing data", mixed, budgets),
    ]
    if full is not None:
        label = "generic and writing data, all parameters"
        arms.append(arm("writing_alpaca_full", label, mixed, tuning="full", recipe=full))
    if decodings:
        beam = Beam(num_beams=4, length_penalty=1.0, style="hf")
        sampled = Sampling(temperature=0.2, top_p=0.7)
        arms.append(
            arm(
                "writing_alpaca_beam4",
                "generic and writing data, by beam search",
                mixed,
                decoding=beam,
            )
        )
        arms.append(
            arm(
                "writing_alpaca_top_p",
                "generic and writing data, by sampling",
                mixed,
                decoding=sampled,
            )
        )
    return tuple(arms)
