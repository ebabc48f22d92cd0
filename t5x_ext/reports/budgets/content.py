"""Puts a study's findings together: the document that is written, and its summary as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from t5x_ext.metrics.resampling import Interval
from t5x_ext.metrics.scoring import METRICS
from t5x_ext.reports import note_tables
from t5x_ext.reports.budgets import paper, paper_tables, tables
from t5x_ext.reports.budgets.instances import instance_intervals
from t5x_ext.reports.budgets.samples import pick_samples
from t5x_ext.reports.charts import score_chart
from t5x_ext.reports.comparisons import (
    Claim,
    Comparison,
    compare_at_equal_budgets,
    compare_over_budgets,
    state_claim,
)
from t5x_ext.reports.crossings import Crossing, find_crossings
from t5x_ext.reports.documents.document import Block, Document, Paragraph, Picture, Section
from t5x_ext.reports.learning_curves import LearningCurve, fit_learning_curves
from t5x_ext.reports.needs import curve_json, need_table, without_infinity
from t5x_ext.reports.score_grid import ScoreGrid, build_grid
from t5x_ext.reports.study_files import SETTINGS, Study


@dataclass(frozen=True)
class Findings:
    """Everything computed from a study.

    `grids` (one per metric) hold every task; `clean` leaves out leaked tasks, and the claim, the
    comparisons, the crossings and the learning curves rest on it. `over_instances` has what
    `instance_intervals` found, and `targets` are scores that labels are asked for (of a learning
    curve's own choice where empty).
    """

    study: Study
    grids: dict[str, ScoreGrid]
    clean: ScoreGrid
    by_budget: list[Comparison]
    over_budgets: list[Comparison]
    crossings: list[Crossing]
    curves: list[LearningCurve]
    over_instances: dict[tuple[str, str], Interval]
    targets: tuple[float, ...]
    claim: Claim


def find(study: Study, targets: Sequence[float] = ()) -> Findings:
    """Computes all numbers of the report; a pure function of the study's files and `targets`."""
    clean = build_grid(study, without=study.leaked_tasks)
    over_budgets = compare_over_budgets(study, clean)
    return Findings(
        study=study,
        grids={metric: build_grid(study, metric) for metric in METRICS},
        clean=clean,
        by_budget=compare_at_equal_budgets(study, clean),
        over_budgets=over_budgets,
        crossings=find_crossings(study, clean),
        curves=fit_learning_curves(study, clean),
        over_instances=instance_intervals(study),
        targets=tuple(targets),
        claim=state_claim(over_budgets),
    )


def build_document(findings: Findings) -> Document:
    """The report, in reading order: claim, curves, differences, data needed, details."""
    study, grid = findings.study, findings.grids["rougeL"]
    settings = [s for s in SETTINGS if any(p.arm.setting == s for p in grid.points)]
    sections = [
        Section("Score against budget", tuple(_scores(findings, settings))),
        Section("At equal budget", tuple(_differences(findings))),
        Section("Data needed to pass a baseline", tuple(_crossings(findings))),
        Section("Labels needed for a score", tuple(_needs(findings))),
        Section("By category", tuple(_categories(findings, settings))),
        *_beside_the_paper(study, grid),
        Section("What to keep in mind", tuple(_notes(study))),
        Section("Cost", (note_tables.cost_table(study),)),
        Section("Scores by task", tuple(tables.task_table(study, grid, s) for s in settings), True),
    ]
    samples = pick_samples(study, grid)
    if samples:
        intro = Paragraph(
            "Test instances at equal distances from the first task of each category, whatever "
            "their score, with the answers of the first seed. Prompts are shown from their end."
        )
        sections.append(Section("Example predictions", (intro, *samples), True))
    return Document(
        title=f"Sample efficiency: {study.name}",
        claim=findings.claim,
        facts=_facts(findings),
        sections=tuple(sections),
    )


def _facts(findings: Findings) -> tuple[tuple[str, str], ...]:
    study = findings.study
    categories = len({task.category for task in study.tasks})
    unfinished = f", {study.unfinished_cells} not" if study.unfinished_cells else ""
    return (
        ("cells", f"{len(study.cells)} finished{unfinished}"),
        ("tasks", f"{len(study.tasks)} in {categories} categories"),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("split policy", study.split_policy),
        ("metric", "ROUGE-L, mean over tasks"),
    )


def _scores(findings: Findings, settings: list[str]) -> list[Block]:
    study = findings.study
    blocks = note_tables.warnings(study)
    blocks.append(
        score_chart(
            study,
            findings.grids["rougeL"],
            "Mean over tasks against training examples per task. Bands and whiskers: 95% "
            "bootstrap intervals over tasks and seeds, mostly the spread between tasks. Dashed: "
            "baselines; a horizontal line continues a baseline trained at one budget only.",
            "Line plot of ROUGE-L against training examples per task, a panel for each setting",
        )
    )
    return blocks + [
        tables.score_table(findings.grids, findings.over_instances, s) for s in settings
    ]


def _differences(findings: Findings) -> list[Block]:
    if not findings.by_budget:
        return [Paragraph("No budget is shared by a proposed arm and a baseline of its setting.")]
    picture = Picture(
        "differences",
        "Proposed minus baseline on the same tasks and seeds. Filled: the interval excludes 0. "
        "Colours are those of the baselines above.",
        "Differences in ROUGE-L at equal budget with their intervals",
    )
    trained = [c for c in findings.over_budgets if len(c.budgets) > 1]
    return [picture, *tables.comparison_tables([*findings.by_budget, *trained])]


def _crossings(findings: Findings) -> list[Block]:
    if not findings.crossings:
        return [Paragraph("No baseline and proposed arm share finished tasks yet.")]
    return [*tables.crossing_tables(findings.crossings)]


def _needs(findings: Findings) -> list[Block]:
    if not findings.curves:
        return [Paragraph("No proposed arm was trained on any budget yet.")]
    blocks: list[Block] = []
    for curve in findings.curves:
        arm = curve.point.arm
        if curve.refusal:
            text = f"{arm.setting}, “{arm.label}”: no answer, because {curve.refusal}."
            blocks.append(Paragraph(text))
        else:
            blocks.append(need_table(curve, findings.targets or curve.targets))
    return blocks


def _categories(findings: Findings, settings: list[str]) -> list[Block]:
    grid = findings.grids["rougeL"]
    picture = Picture(
        "categories",
        "Mean over the tasks of a category (their number in brackets) at the budget that most "
        "arms share; dots are single tasks.",
        "Bars of ROUGE-L by category and arm, a panel for each setting",
    )
    return [picture, *(tables.category_table(grid, setting) for setting in settings)]


def _beside_the_paper(study: Study, grid: ScoreGrid) -> list[Section]:
    """The paper's tables, in a study of arms that the paper has."""
    if not any(arm.name in paper.ARMS for arm in study.arms):
        return []
    blocks = paper_tables.paper_table(study, grid), paper_tables.paper_category_table(grid)
    return [Section("Beside the paper", blocks)]


def _notes(study: Study) -> list[Block]:
    leaks, short, cut = (
        note_tables.leak_table(study),
        note_tables.short_table(study),
        note_tables.truncation_table(study),
    )
    cut_targets, stopped = note_tables.cut_target_table(study), note_tables.stop_table(study)
    tuned_alike = "the models of an arm" if study.has_own_recipes else "all models"
    no_leak = f"No task was tested on rows it was trained on (split policy: {study.split_policy})."
    return [
        leaks or Paragraph(no_leak),
        short or Paragraph("Every task had as many training rows as each budget asked for."),
        cut or Paragraph("No prompt was longer than the length limit."),
        *([cut_targets] if cut_targets else []),
        *([stopped] if stopped else []),
        Paragraph(
            f"Each starting model was tuned once, and {tuned_alike} at one learning rate. The "
            "intervals hold the spread of tasks, subsets and order, but not the luck of a start, "
            "and another rate may suit another start better."
        ),
    ]


def summary(findings: Findings) -> dict[str, Any]:
    """The report's findings as one JSON object; shares and labels not reached are null."""
    study, grid = findings.study, findings.grids["rougeL"]
    return {
        "study": study.name,
        "finished_cells": len(study.cells),
        "unfinished_cells": study.unfinished_cells,
        "missing_scores": sum(study.missing_scores().values()),
        "tasks": len(study.tasks),
        "seeds": list(study.seeds),
        "leaked_tasks": list(study.leaked_tasks),
        "claim": asdict(findings.claim),
        "points": [
            {
                "setting": point.arm.setting,
                "arm": point.arm.name,
                "budget": point.budget,
                "labels_per_task": point.labels_per_task,
                "share_of_data": point.share,
                "rougeL": asdict(grid.interval(point)),
            }
            for point in grid.points
        ],
        "differences": [_comparison_json(c) for c in findings.by_budget],
        "differences_over_budgets": [_comparison_json(c) for c in findings.over_budgets],
        "crossings": [_crossing_json(crossing) for crossing in findings.crossings],
        "learning_curves": [curve_json(curve, findings.targets) for curve in findings.curves],
    }


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "setting": comparison.arm.setting,
        "arm": comparison.arm.name,
        "baseline": comparison.baseline.name,
        "budgets": list(comparison.budgets),
        "difference": asdict(comparison.difference),
        "tasks": comparison.tasks,
        "seeds": comparison.seeds,
        "verdict": comparison.verdict,
    }


def _crossing_json(crossing: Crossing) -> dict[str, Any]:
    fields = asdict(crossing) | {"times_fewer_labels": crossing.times_fewer_labels}
    fields |= {"arm": crossing.arm.name, "baseline": crossing.baseline.name}
    fields["setting"] = crossing.arm.setting
    return without_infinity(fields)
