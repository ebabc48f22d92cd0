"""The report of a study whose datasets have their own metrics: arms by datasets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from t5x_ext.generation.scores import OVER_SHOTS, ZERO_SHOT
from t5x_ext.reports import note_tables
from t5x_ext.reports.charts import score_chart
from t5x_ext.reports.comparisons import Claim
from t5x_ext.reports.datasets import shots, tables
from t5x_ext.reports.datasets.equivalents import (
    Equivalent,
    count_sets,
    equivalent_tables,
    find_equivalents,
)
from t5x_ext.reports.datasets.generated_rows import (
    Generated,
    flagged_rows,
    generated_blocks,
    read_generated,
    to_json,
)
from t5x_ext.reports.datasets.published import published_blocks, read_published
from t5x_ext.reports.datasets.samples import name_of, pick_samples
from t5x_ext.reports.datasets.scores import DatasetScores, Row, score_datasets, set_and_shots
from t5x_ext.reports.datasets.shots import Shots, find_shots
from t5x_ext.reports.datasets.training_tables import source_table, tuning_table
from t5x_ext.reports.datasets.wording_tables import wording_table
from t5x_ext.reports.documents.document import Block, Document, Paragraph, Section
from t5x_ext.reports.learning_curves import LearningCurve, fit_learning_curves
from t5x_ext.reports.needs import curve_json, need_table
from t5x_ext.reports.study_files import Study
from t5x_ext.reports.wording import signed


@dataclass(frozen=True)
class Findings:
    """Everything computed from a study.

    `targets` are scores that rows are asked for (of a learning curve's own choice where empty).
    """

    study: Study
    scores: DatasetScores
    equivalents: list[Equivalent]
    curves: list[LearningCurve]
    targets: tuple[float, ...]
    claim: Claim
    generated: list[Generated]  # what models of the study wrote for themselves
    clean: (
        DatasetScores | None
    )  # without test inputs that share words with it; None: there are none


def find(study: Study, targets: Sequence[float] = ()) -> Findings:
    """Computes all numbers of the report; a pure function of the study's files and `targets`."""
    scores = score_datasets(study)
    generated = read_generated(study)
    flagged = flagged_rows(generated)
    return Findings(
        study=study,
        scores=scores,
        equivalents=find_equivalents(scores.grid, count_sets(study, scores.grid)),
        curves=fit_learning_curves(study, scores.grid),
        targets=tuple(targets),
        claim=state_claim(scores),
        generated=generated,
        clean=score_datasets(study, flagged) if flagged else None,
    )


def state_claim(scores: DatasetScores) -> Claim:
    """The arm with the highest mean, and whether it is clearly above each reference arm.

    What takes no model, such as copying the source, is named where it scores higher.
    """
    heads = scores.heads
    complete = [row for row in scores.rows if row.has(heads)]
    if not complete:
        sentence = "No arm has finished on every dataset, so there is no mean to compare."
        return Claim("Unfinished", "no arm has a score on every dataset", (sentence,))
    best = max(complete, key=lambda row: row.values[heads].mean())
    found = best.interval(heads)
    assert found is not None  # it is complete
    over = f"the mean of {_what_is_scored(scores)}" if len(heads) > 1 else "the dataset"
    meaning = (
        f"“{name_of(best)}” with {found.mean:.2f} on {over} "
        f"(95% interval {found.low:.2f} to {found.high:.2f})"
    )
    sentences = []
    for other in scores.references:
        if other.has(heads) and other is not best:
            sentences.append(_sentence(best, other, scores))
    for floor in scores.bounds:
        without = floor.interval(heads)
        if floor.bound != "reference_0" and without and without.mean > found.mean:
            sentences.append(
                f"“{floor.label}”, which takes no model, scores higher: {without.mean:.2f}."
            )
    return Claim("Highest score", meaning, tuple(sentences))


def _what_is_scored(scores: DatasetScores) -> str:
    """`"7 datasets"`; `"6 datasets after 0, 1 and 5 demonstrations"`."""
    asked = [set_and_shots(scores.columns[i].task) for i in scores.heads]
    sets = {each[0] for each in asked if each}
    shots = sorted({each[1] for each in asked if each})
    if len(shots) < 2 or len(sets) * len(shots) != len(asked):
        return f"{len(asked)} datasets"
    counts = f"{', '.join(map(str, shots[:-1]))} and {shots[-1]}"
    return f"{len(sets)} datasets after {counts} demonstrations"


def _sentence(best: Row, other: Row, scores: DatasetScores) -> str:
    apart = best.above(other, scores.heads)
    assert apart is not None  # both are complete
    verdict = "clearly above" if apart.low > 0 else "not clearly above"
    return (
        f"It is {verdict} “{name_of(other)}”: {signed(apart.mean)} points (95% interval "
        f"{signed(apart.low)} to {signed(apart.high)})."
    )


def build_document(findings: Findings) -> Document:
    """The report, in reading order: scores, curves, differences, outputs, cost, examples."""
    study, scores = findings.study, findings.scores
    by_shots = find_shots(scores)
    parts = tables.parts_table(scores)
    by_dataset = tables.trait_by_dataset_table(scores)
    outputs: list[Block] = [tables.trait_table(study, scores)]
    outputs += [by_dataset] if by_dataset else []
    sections = [
        *(_scores_by_shots(findings, by_shots) if by_shots else _scores(findings)),
        Section("Score against training rows", tuple(_curves(findings))),
        Section("Rows that are worth another arm", tuple(_equivalents(findings))),
        *([Section("Edits", (parts,))] if parts else []),
        *([Section("Beside the paper", tuple(_beside(findings)))] if study.published else []),
        *(_written(findings) if findings.generated else []),
        Section("Outputs", tuple(outputs)),
        Section("What to keep in mind", tuple(_notes(study))),
        Section("Cost", (tuning_table(study, scores),)),
    ]
    samples = pick_samples(study, scores)
    if samples:
        intro = Paragraph(
            "Test inputs at equal distances from each dataset, whatever their score, with the "
            "answers of the first seed. Answers to texts that were to be rewritten show what they "
            "delete from the text and insert into it."
        )
        sections.append(Section("Example outputs", (intro, *samples), True))
    return Document(f"Study: {study.name}", findings.claim, _facts(findings), tuple(sections))


def _scores(findings: Findings) -> list[Section]:
    study, scores = findings.study, findings.scores
    beside = [t for t in (wording_table(scores), source_table(study, scores)) if t]
    blocks = (*note_tables.warnings(study), tables.score_table(scores), *beside)
    return [
        Section("Scores", blocks),
        Section("Differences", tuple(tables.difference_tables(scores))),
    ]


def _scores_by_shots(findings: Findings, by_shots: Shots) -> list[Section]:
    """The few tables that answer the question; those of each dataset are closed."""
    study, scores = findings.study, findings.scores
    blocks: list[Block] = [
        *note_tables.warnings(study),
        shots.shots_table(scores, by_shots, findings.clean),
        Paragraph(ZERO_SHOT),
        shots.further_table(scores),
    ]
    by_dataset: list[Block] = [
        *shots.set_tables(scores),
        *tables.difference_tables(scores, scores.heads),
    ]
    sources = source_table(study, scores)
    by_dataset += [sources] if sources else []
    return [
        Section("Scores", tuple(blocks)),
        Section("Differences", tuple(shots.difference_tables(scores, by_shots))),
        Section("Scores and differences by dataset", tuple(by_dataset), folded=True),
    ]


def _written(findings: Findings) -> list[Section]:
    blocks = generated_blocks(findings.study, findings.generated)
    return [Section("What models wrote for themselves", tuple(blocks))]


def _facts(findings: Findings) -> tuple[tuple[str, str], ...]:
    study, scores = findings.study, findings.scores
    unfinished = f", {study.unfinished_cells} not" if study.unfinished_cells else ""
    keys = dict.fromkeys(tables.metric_title(scores.columns[i].metric.key) for i in scores.heads)
    return (
        ("cells", f"{len(study.cells)} finished{unfinished}"),
        ("arms", str(len({row.arm for row in scores.rows}))),
        ("scored on", _what_is_scored(scores)),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("metrics", "; ".join(keys)),
    )


def _curves(findings: Findings) -> list[Block]:
    study, grid = findings.study, findings.scores.grid
    in_all = any(point.counts_in_all and point.labels_per_task for point in grid.points)
    chart = score_chart(
        study,
        grid,
        "Mean over datasets, each by the first of its metrics, against training rows per task. "
        "Bands and whiskers: 95% bootstrap intervals over test inputs and seeds. Dashed: "
        "reference arms; a horizontal line continues one that has a single budget."
        + " Rows that belong to no task, such as those that models wrote, are counted in all."
        * in_all,
        "Line plot of the mean score against training rows per task",
    )
    return [chart]


def _equivalents(findings: Findings) -> list[Block]:
    if not findings.equivalents:
        return [Paragraph("No arm was trained on several numbers of rows to compare others with.")]
    blocks: list[Block] = [*equivalent_tables(findings.equivalents)]
    for curve in findings.curves:
        if not curve.refusal:
            blocks.append(need_table(curve, findings.targets or curve.targets, "mean score"))
    return blocks


def _beside(findings: Findings) -> list[Block]:
    paper = read_published(findings.study.published)
    return published_blocks(paper, findings.scores)


def _notes(study: Study) -> list[Block]:
    cut, cut_targets = note_tables.truncation_table(study), note_tables.cut_target_table(study)
    short = note_tables.short_table(study)
    seeds = (
        "Each arm was tuned once: the intervals hold the spread of test inputs, but not the luck "
        "of a run."
        if len(study.seeds) == 1
        else "The intervals hold the spread of test inputs and of the seeds that were run."
    )
    return [
        *([short] if short else []),
        cut or Paragraph("No prompt was longer than the length limit."),
        *([cut_targets] if cut_targets else []),
        Paragraph(
            f"{seeds} Figures under different metrics, or under one metric on different datasets, "
            "cannot be compared with each other; a mean over them only ranks arms on these "
            "datasets."
        ),
    ]


def summary(findings: Findings) -> dict[str, Any]:
    """The report's findings as one JSON object."""
    study, scores = findings.study, findings.scores
    return {
        "study": study.name,
        "finished_cells": len(study.cells),
        "unfinished_cells": study.unfinished_cells,
        "missing_scores": sum(study.missing_scores().values()),
        "seeds": list(study.seeds),
        "claim": asdict(findings.claim),
        "rows": [_row_json(row, scores) for row in (*scores.rows, *scores.bounds)],
        "equivalents": [_equivalent_json(each) for each in findings.equivalents],
        **({"shots": _shots_json(findings, by_shots)} if (by_shots := find_shots(scores)) else {}),
        **({"generated": list(map(to_json, findings.generated))} if findings.generated else {}),
        "measure": "mean score",
        "learning_curves": [curve_json(curve, findings.targets) for curve in findings.curves],
    }


def _shots_json(findings: Findings, by_shots: Shots) -> list[dict[str, Any]]:
    """F1 of each arm by demonstrations, and without flagged rows where there are any."""
    views = {"f1": (findings.scores, by_shots)}
    if findings.clean and (clean := find_shots(findings.clean)):
        views["f1_without_flagged"] = (findings.clean, clean)
    found = []
    for name, (scores, columns) in views.items():
        for row in (*scores.rows, *scores.bounds):
            measures = [*(f"k{k}" for k in columns.columns), *OVER_SHOTS]
            intervals = {m: columns.interval(row, m) for m in measures}
            figures = {m: asdict(each) if each else None for m, each in intervals.items()}
            found.append(
                {
                    "measure": name,
                    "arm": row.arm or None,
                    "budget": row.budget or None,
                    "label": row.label,
                    **figures,
                }
            )
    return found


def _equivalent_json(found: Equivalent) -> dict[str, Any]:
    bounds = {"rows": found.rows, "low": found.low, "high": found.high}
    return {
        "curve": found.curve.arm.name,
        "arm": found.target.arm.name,
        "budget": found.target.budget,
        "dataset": found.dataset or None,
        "score": found.score,
        **{name: value if math.isfinite(value) else None for name, value in bounds.items()},
        "sets": found.num_sets,
        "at_most": found.rows <= found.smallest,
        "refusal": found.refusal,
    }


def _row_json(row: Row, scores: DatasetScores) -> dict[str, Any]:
    mean = row.interval(scores.heads)
    datasets: dict[str, dict[str, Any]] = {}
    for i, column in enumerate(scores.columns):
        found = row.interval([i])
        if found:
            datasets.setdefault(column.task, {})[column.metric.key] = asdict(found)
    return {
        "arm": row.arm or None,
        "budget": row.budget or None,
        "label": row.label,
        "mean": asdict(mean) if mean else None,
        "datasets": datasets,
    }
