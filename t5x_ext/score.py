"""Scores a predictions file: ROUGE-L, ROUGE-1 and exact match, with bootstrap intervals.

    python -m t5x_ext.score predictions.jsonl --by task,category

The same file gives the same scores, intervals included. A malformed line is refused with its number
and field.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from t5x_ext.errors import ConfigError, printable
from t5x_ext.metrics import aggregate
from t5x_ext.metrics.predictions import read_predictions, write_predictions
from t5x_ext.metrics.scoring import METRICS, score_rows
from t5x_ext.terminal import Parser, command, show, show_json

_FIELDS = ("task", "category")
_TITLES = {"rougeL": "ROUGE-L", "rouge1": "ROUGE-1", "exact_match": "exact match"}


def _by(text: str) -> list[str]:
    fields = [field.strip() for field in text.split(",") if field.strip()]
    for field in fields:
        if field not in _FIELDS:
            raise ConfigError(f"--by: '{field}' is unknown; allowed: {', '.join(_FIELDS)}")
    return fields


def summarise(path: str, by: Sequence[str], out: str | None = None) -> dict[str, Any]:
    """Scores the file at `path`.

    Args:
        path: a predictions file.
        by: any of "task", "category": groups to report beside the overall means.
        out: where to write the rows with their `score`; nothing is written if None.

    Returns:
        {"file", "predictions", "tasks", "overall": {"instances": {...}, "tasks": {...}},
        "by_task"/"by_category": {name: {"n", "means": {metric: {mean, low, high}}}}}, in percent.
    """
    rows = score_rows(read_predictions(path))
    if out:
        write_predictions(out, rows)
    groups = {"instances": aggregate.over_instances(rows), "tasks": aggregate.over_tasks(rows)}
    summary: dict[str, Any] = {
        "file": path,
        "predictions": len(rows),
        "tasks": groups["tasks"].n,
        "overall": {name: _to_dict(group) for name, group in groups.items()},
    }
    for field in by:
        parts = aggregate.by_field(rows, field)
        summary[f"by_{field}"] = {group.name: _to_dict(group) for group in parts}
    return summary


def _to_dict(group: aggregate.Group) -> dict[str, object]:
    return {"n": group.n, "means": {name: asdict(mean) for name, mean in group.means.items()}}


def _table(title: str, groups: dict[str, dict]) -> list[str]:
    groups = {printable(name): group for name, group in groups.items()}
    width = max(map(len, [title, *groups]))
    head = f"{title:<{width}}  {'n':>6}" + "".join(f"  {_TITLES[m]:>23}" for m in METRICS)
    lines = [head, "-" * len(head)]
    for name, group in groups.items():
        cells = (
            "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**group["means"][metric])
            for metric in METRICS
        )
        row = f"{name:<{width}}  {group['n']:>6}" + "".join(f"  {cell:>23}" for cell in cells)
        lines.append(row)
    return [*lines, ""]


def _lines(summary: dict[str, Any], by: Sequence[str]) -> list[str]:
    tables = [line for field in by for line in _table(field, summary[f"by_{field}"])]
    tables += _table("mean over", summary["overall"])
    return [*tables, "percent; in brackets 95 % bootstrap intervals"]


def _parser() -> Parser:
    parser = Parser("score", __doc__)
    parser.add_argument(
        "predictions", help="predictions file (JSONL) written by eval, infer or a study"
    )
    parser.add_argument(
        "--by", default="", metavar="FIELDS", help="also by task, category or both: task,category"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--out", metavar="FILE", help="write the predictions with a score per row to this file"
    )
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(argv)
    by = _by(args.by)
    summary = summarise(args.predictions, by, args.out)
    if args.json:
        show_json(summary)
    else:
        show(*_lines(summary, by))


if __name__ == "__main__":
    sys.exit(main())
