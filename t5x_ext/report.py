"""Turns a study directory into a report: CSV, Markdown, figures and one self-contained page.

    python -m t5x_ext.report runs/quickstart
    python -m t5x_ext.report runs/quickstart --target 65 --target 70 --json

Writes STUDY_DIR/report/: index.html, report.md, results.csv, summary.csv and the figures scores,
differences and categories as PNG and SVG. Where datasets name their own metrics, the report has
arms by datasets, with datasets.csv in place of summary.csv. Cells that have not finished are left
out and counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from t5x_ext import files
from t5x_ext.bounds import real_flag
from t5x_ext.errors import amount
from t5x_ext.terminal import Parser, command, show, show_json

if TYPE_CHECKING:
    from t5x_ext.reports.documents.document import Document
    from t5x_ext.reports.study_files import Study


def write_report(study_dir: files.StrPath, targets: Sequence[float] = ()) -> dict[str, Any]:
    """Reads a study and writes its report.

    Args:
        study_dir: as written by t5x_ext.study, local or in a bucket.
        targets: scores in percent, ROUGE-L or the mean over datasets, to answer "how many more
            labels" for; where empty, the next points above what the largest budget reached.

    Returns:
        The summary: claim, points, differences, crossings, learning curves, and the path of the
        page (`page`). Where datasets name their own metrics: claim, rows (a system each, with
        its scores by dataset and metric), equivalents, and `page`.

    Raises:
        ConfigError: the study cannot be read, or the report not written.
    """
    # Matplotlib takes a second to load; `--help` and usage errors need not wait for it.
    from t5x_ext.reports.documents import html, markdown
    from t5x_ext.reports.study_files import read_study

    study = read_study(study_dir)
    out = study.directory / "report"
    write = _write_datasets if study.has_own_metrics else _write_budgets
    document, summary = write(study, out, targets)
    files.write_text(out / "report.md", markdown.render(document))
    files.write_text(out / "index.html", html.render(document, out))
    return summary | {"page": str(out / "index.html")}


def _write_budgets(
    study: Study, out: epath.Path, targets: Sequence[float]
) -> tuple[Document, dict[str, Any]]:
    """Tables and figures of a study of ROUGE-L against budgets; its report and summary."""
    from t5x_ext.reports import csv_files, plots
    from t5x_ext.reports.budgets import content

    findings = content.find(study, targets)
    grid = findings.grids["rougeL"]
    csv_files.write_results(out / "results.csv", study)
    csv_files.write_summary(out / "summary.csv", study, findings.grids)
    plots.save(plots.plot_scores(study, grid), out, "scores")
    if findings.by_budget:
        plots.save(plots.plot_differences(study, findings.by_budget), out, "differences")
    plots.save(plots.plot_categories(study, grid), out, "categories")
    return content.build_document(findings), content.summary(findings)


def _write_datasets(
    study: Study, out: epath.Path, targets: Sequence[float]
) -> tuple[Document, dict[str, Any]]:
    """Tables and figures of a study whose datasets have their own metrics."""
    from t5x_ext.reports import csv_files, plots
    from t5x_ext.reports.datasets import content as dataset_content

    findings = dataset_content.find(study, targets)
    csv_files.write_results(out / "results.csv", study)
    csv_files.write_datasets(out / "datasets.csv", findings.scores)
    plots.save(plots.plot_scores(study, findings.scores.grid), out, "scores")
    return dataset_content.build_document(findings), dataset_content.summary(findings)


def _parser() -> Parser:
    parser = Parser("report", __doc__)
    parser.add_argument("study_dir", metavar="STUDY_DIR", help="directory written by t5x_ext.study")
    parser.add_argument(
        "--target",
        metavar="SCORE",
        type=real_flag(0, 100),
        action="append",
        default=[],
        help="how many labels for this score (ROUGE-L, or the mean over datasets), 0 to 100; may "
        "be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    return parser


def _answers(findings: dict[str, Any]) -> Iterator[str]:
    """A line for each score that labels were asked for, of each curve."""
    measure = findings.get("measure", "ROUGE-L")
    for curve in findings["learning_curves"]:
        for need in curve["needs"]:
            if need["refusal"]:
                answer = f"no answer: {need['refusal']}"
            elif need["at_most"]:
                answer = f"at most {need['labels']:,.0f} labels per task, the smallest budget"
            else:
                high = "open" if need["high"] is None else f"{need['high']:,.0f}"
                interval = f"95% interval {need['low']:,.0f} to {high}"
                answer = f"{need['labels']:,.0f} labels per task ({interval})"
            yield f"{curve['setting']}, {curve['arm']}, {measure} {need['score']:g}: {answer}"


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(argv)
    findings = write_report(args.study_dir, args.target)
    if args.json:
        show_json(findings)
        return
    claim = findings["claim"]
    show(f"{claim['verdict']}: {claim['meaning']}", *(f"  {line}" for line in claim["sentences"]))
    if args.target:
        show(*_answers(findings))
    missing = findings["missing_scores"]
    unfinished = f", scores still missing: {missing}" if missing else ""
    show(f"{amount(findings['finished_cells'], 'cell')}{unfinished} -> {findings['page']}")


if __name__ == "__main__":
    sys.exit(main())
