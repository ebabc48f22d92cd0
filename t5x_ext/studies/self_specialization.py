"""The arms of Kang et al. 2023, "Self-Specialization: Uncovering Latent Expertise within Large
Language Models", with controls that the paper lacks, and the data that its models write.

All arms start from one base, and all tuned ones tune an adapter over it; they differ in what that
was tuned on. `ss_supervised` is tuned on rows that people wrote, at several numbers of rows: where
its curve reaches the score of another arm, that many rows is that arm's data worth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mixtures.prompts import STOPS
from mixtures.specialization.names import PREFIX
from t5x_ext.decoding import Contrastive, Greedy, LimitByKind, Sampling
from t5x_ext.errors import ConfigError, nearest
from t5x_ext.generation import InstructionSettings, ResponseSettings
from t5x_ext.grids import GENERATED
from t5x_ext.retrieval import BM25
from t5x_ext.studies.arms import Arm
from t5x_ext.studies.generated_data import GeneratedData

TEMPLATE, NO_TEMPLATE = "alpaca", "ss.none"
SUPERVISED = "ss_supervised"
_CONTRAST = Contrastive()
_WRITING_TASKS = Sampling(temperature=1.0, top_p=0.98)

_LABELS = {
    "ss_base": "base, no template (the paper's baseline)",
    "ss_base_template": "base, with the template",
    "ss_seeds": "tuned on the seeds alone",
    SUPERVISED: "rows written by people",
    "ss_r2_same": "round 2, the tasks of round 1",
    "ss_r2": "round 2, new tasks",
    "ss_r2_greedy": "round 2, no contrast",
    "ss_generic": "general tasks, no passages",
}


def self_specialization_arms(
    domain: str,
    sets: Sequence[str],
    rows: int = 5000,
    passages: Sequence[int] = (0, 1, 5),
    sizes: Sequence[int] = (),
    seeds: int | None = None,
    seed_counts: Sequence[int] = (),
    human: Sequence[int] = (),
    base: str = "base",
    output_limit: LimitByKind | None = None,
    only: Sequence[str] | None = None,
) -> tuple[Arm, ...]:
    """The paper's arms and the controls.

    Args:
        domain: as in the names of its sets.
        sets: the evaluation sets whose train rows `ss_supervised` is tuned on.
        rows: that each model writes for itself and is tuned on.
        passages: shown with each task in round 1, an arm per number ("ss_r1_docs5"); round 2
            follows the last.
        sizes: further numbers of rows of the main arm: the paper's "future work".
        seeds: rows that `ss_seeds` is tuned on, all seeds of the domain; None leaves it out.
        seed_counts: numbers of seeds, an arm each ("ss_seeds20").
        human: rows of each set that `ss_supervised` is tuned on; none leaves it out.
        base: name of the initial model.
        output_limit: most tokens of an answer by the kind of its question, where the recipe's
            task_feature_lengths['targets'] allows as many; None is those alone, as studies had it
            before there was the argument.
        only: names of the arms to run; None runs all.

    Raises:
        ConfigError: an arm's name is unknown.
    """

    def arm(name: str, data: str, budgets: Sequence[int], prompt: str = TEMPLATE) -> Arm:
        return Arm(
            name,
            "MTL",
            base,
            prompt,
            [f"n{count}" for count in budgets],
            baseline=name in ("ss_base", "ss_base_template", "ss_seeds"),
            label=_LABELS.get(name, _label(name)),
            data=data,
            stop=STOPS[prompt],
            output_limit=output_limit,
        )

    main = _main(passages)
    arms = [arm("ss_base", "", [0], NO_TEMPLATE), arm("ss_base_template", "", [0])]
    if seeds is not None:
        arms.append(arm("ss_seeds", f"{PREFIX}{domain}.seeds.n{{count}}", [seeds]))
    if human:
        data = f"{PREFIX}{domain}.{':'.join(sets)}.n{{count}}"
        arms.append(arm(SUPERVISED, data, sorted(human)))
    generated = [f"r1_docs{count}" for count in passages]
    generated += ["r2_same", "r2", "r2_greedy", f"{main}_softmax", f"{main}_uniform", "generic"]
    generated += [f"seeds{count}" for count in seed_counts]
    for name in generated:
        budgets = sorted({*sizes, rows}) if name == main else [rows]
        arms.append(arm(f"ss_{name}", f"{GENERATED}{name}", budgets))
    known = [each.name for each in arms]
    for name in only or ():
        if name == "ss_mix":
            raise ConfigError(
                "self_specialization_arms: ss_mix: adapters of one domain only here; those of two "
                "are mixed by hand: `t5x_ext convert --combine`, or Model.load(adapters=...) and "
                "an adapter per row"
            )
        if name not in known:
            raise ConfigError(
                f"self_specialization_arms: unknown arm {name!r}{nearest(name, known)}"
            )
    return tuple(each for each in arms if only is None or each.name in only)


def self_specialization_data(
    domain: str,
    asking: InstructionSettings,
    answering: ResponseSettings,
    passages: Sequence[int] = (0, 1, 5),
    seed_counts: Sequence[int] = (),
    base: str = "base",
    contrast: Contrastive = _CONTRAST,
    bm25: BM25 = BM25(),
    instruction_decoding: Sampling = _WRITING_TASKS,
    response_decoding: Greedy = Greedy(),
    batch_size: int = 8,
) -> tuple[GeneratedData, ...]:
    """What the models of these arms write; made only where an arm is tuned on it.

    Args:
        domain: as of `self_specialization_arms`.
        asking: how tasks are asked for in round 1, under the adjective that prompts name.
        answering: how they are answered; the number of passages is that of `passages`.
        passages: as of `self_specialization_arms`.
        seed_counts: likewise.
        base: likewise.
        contrast: of round 2.
        bm25: how passages are found.
        instruction_decoding: how tasks are written.
        response_decoding: how answers are written.
        batch_size: texts written at a time; does not change them.
    """
    main = _main(passages)

    def data(name: str, docs: int, writer: str = base, number: int = 1, **more) -> GeneratedData:
        return GeneratedData(
            name,
            domain,
            writer,
            dataclasses.replace(asking, round=number),
            dataclasses.replace(answering, round=number, num_passages=docs),
            bm25=bm25,
            instruction_decoding=instruction_decoding,
            response_decoding=response_decoding,
            batch_size=batch_size,
            **more,
        )

    most, first = passages[-1], f"ss_{main}"
    found = [
        data(f"r1_docs{count}", count, tasks_of="" if count == most else main) for count in passages
    ]
    found += [
        data("r2_same", most, first, 2, tasks_of=main, contrast=contrast),
        data("r2", most, first, 2, contrast=contrast),
        data("r2_greedy", most, first, 2, tasks_of="r2"),
    ]
    for weighting in ("softmax", "uniform"):
        one = data(f"{main}_{weighting}", most, tasks_of=main)
        weighted = dataclasses.replace(one.answering, weighting=weighting)
        found.append(dataclasses.replace(one, answering=weighted))
    general = data("generic", 0)
    found.append(
        dataclasses.replace(
            general,
            asking=dataclasses.replace(general.asking, domain="general"),
            answering=dataclasses.replace(general.answering, domain="general"),
        )
    )
    return (*found, *(data(f"seeds{n}", most, num_seeds=n) for n in seed_counts))


def _main(passages: Sequence[int]) -> str:
    if not passages:
        raise ConfigError("self-specialization: passages is empty; allowed: (0,) and the like")
    return f"r1_docs{passages[-1]}"


def _label(name: str) -> str:
    """'ss_r1_docs5_uniform' -> 'round 1, 5 passages, uniform weights'."""
    if name.startswith("ss_seeds"):
        return f"round 1, {name.removeprefix('ss_seeds')} seeds"
    count, _, weighting = name.removeprefix("ss_r1_docs").partition("_")
    beside = {"0": "no passages", "1": "1 passage"}.get(count, f"{count} passages")
    return f"round 1, {beside}" + (f", {weighting} weights" if weighting else "")
