"""The plan of a study as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from t5x_ext.planning import tables
from t5x_ext.planning.devices import PRICE_SOURCE
from t5x_ext.planning.proposals import Proposal
from t5x_ext.planning.study_plans import PLACES, Kind, StudyPlan

_NOTES = (
    "A row holds models of one start whose numbers of steps are within a factor of two. A group "
    "lasts as long as its longest model and occupies the whole machine. A process for each model "
    "occupies only the devices that it uses, from its start on. Times of steps and decoding are "
    "estimates for prompts of full length, decoded to the limit: compare plans with plans."
)


def render(study: StudyPlan, proposals: Sequence[Proposal] | None) -> str:
    """The report of the command.

    Args:
      study: what was asked for.
      proposals: changes that fit, where it does not; None if none were looked for.
    """
    plan = study.together
    parts = [tables.head(plan) + "\n" + _head(study), tables.memory(plan)]
    if plan.step_secs is not None:
        parts.append(_kinds(study))
    if study.texts:
        parts.append(_texts(study))
    parts.append(tables.verdict(plan, proposals))
    return "\n\n".join(parts)


def _head(study: StudyPlan) -> str:
    size, experts = study.study.size, study.together.setup.experts
    tasks = f"{size.tasks} tasks"
    if size.tasks_without_file:
        tasks += f" ({size.tasks_without_file} have no file here and count as the mean of the rest)"
    slot = study.together.machine.count // study.slots
    groups = -(-size.tasks // experts)
    full = study.study.setup.workload.rows
    rows = study.together.setup.workload.rows
    joined = f"{full} examples in about {rows} rows, by their texts; the memory is for {full}"
    return tables.align(
        [
            *([("joined", joined)] if study.study.typical_rows else []),
            ("study", f"{size.tuned:,} models, {tasks}"),
            *([("left out", _left_out(study.study.left_out))] if study.study.left_out else []),
            (
                "at once",
                f"{experts} models: {experts // study.slots} in each of {study.slots} slots of "
                f"{slot} devices; a model for each task takes at least {groups} groups",
            ),
        ]
    )


def _left_out(arms: Sequence[str]) -> str:
    return (
        f"{', '.join(arms)}: all parameters are tuned, where this plan has adapters; "
        "--gin.LORA_RANK=None plans every arm so"
    )


def _kinds(study: StudyPlan) -> str:
    count = study.together.machine.count
    slot = count // study.slots
    header = [
        ("", "", "", "", "in groups", "", "a process each, dollars on", "", "costs least"),
        (
            "tuned from",
            "steps",
            "models",
            "groups",
            "hours",
            "dollars",
            f"{slot} devices",
            f"all {count}",
            "",
        ),
    ]
    values = [_values(study, kind) for kind in study.kinds]
    totals = [_sum(column) for column in zip(*(row[2:] for row in values), strict=True)]
    places = dict(zip(PLACES, ("in groups", f"on {slot} devices", f"on all {count}"), strict=True))
    lines = [
        *(
            (*row, places.get(study.cheapest(kind) or ""))
            for row, kind in zip(values, study.kinds, strict=True)
        ),
        ("whole study", "", *totals, ""),
    ]
    step, decoding = study.together.step_secs, study.together.decoding_secs
    times = [("each row where it costs least", f"{_text(study.least_dollars)} dollars")]
    times.append(("a step", tables.ms(step)))
    if decoding is not None:
        rows = study.together.setup.decoding.rows
        shares = bool(study.together.setup.model.module.frozen)
        whose = "adapters in each slot" if shares else "each model"
        times.append((f"decoding {rows} prompts of {whose}", f"{tables.ms(decoding)} at most"))
    times.append(("start of a separate process", _start(study)))
    if study.together.price_per_chip_hour == study.together.machine.device.price_per_hour:
        times.append(("prices", PRICE_SOURCE))
    table = tables.align([*header, *(tuple(map(_text, line)) for line in lines)])
    return f"{table}\n\n{tables.align(times)}\n\n{textwrap.fill(_NOTES, 100)}"


def _texts(study: StudyPlan) -> str:
    """What models write for training, besides the cells above."""
    header = ("written by models", "batches", "rows of each", "memory", "hours", "dollars")
    lines: list[tuple[str | int | float | None, ...]] = []
    for index, (size, plan) in enumerate(zip(study.study.size.texts, study.texts, strict=True)):
        hours = study.text_hours(index)
        memory = tables.gib(plan.decoding_needed_bytes)
        lines.append(
            (size.name, size.batches, size.workload.rows, memory, hours, study.dollars(hours))
        )
    hours, dollars = (_sum([line[column] for line in lines]) for column in (4, 5))
    total: tuple[str | int | float | None, ...] = ("all texts", "", "", "", hours, dollars)
    table = tables.align([header, *(tuple(map(_text, line)) for line in [*lines, total])])
    return f"{table}\n\nAssumed: texts reach their maximum length, and half of the tasks are kept."


def _values(study: StudyPlan, kind: Kind) -> tuple[str | int | float | None, ...]:
    first = kind.models[0]
    fewest, most = kind.steps_range
    return (
        f"{first.start} (initial model)" if first.is_initial else first.start,
        f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}",
        len(kind.models),
        len(kind.groups),
        study.hours(kind),
        *study.costs(kind).values(),
    )


def _start(study: StudyPlan) -> str:
    if study.start_secs is not None:
        return f"{study.start_secs:,.0f} s"
    return "as long as compiling took here; --start_secs says otherwise"


def _sum(column: Sequence[Any]) -> int | float | None:
    return None if None in column else sum(column)


def _text(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
