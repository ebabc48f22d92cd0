"""Scores a predictions file, with bootstrap intervals.

    python -m t5x_ext.score predictions.jsonl --by task,category
    python -m t5x_ext.score predictions.jsonl --metrics gleu,errant,m2 --m2 gold.m2
    python -m t5x_ext.score predictions.jsonl --metrics sari --compare other.jsonl

Each task is scored with the metrics it names, or ROUGE-L, ROUGE-1 and exact match; docs/metrics.md
lists all. The same file gives the same scores, intervals included. A malformed line is refused with
its number and field.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from t5x_ext import files
from t5x_ext.errors import ConfigError, printable
from t5x_ext.metrics import aggregate
from t5x_ext.metrics.catalogue import get_metric
from t5x_ext.metrics.m2_files import with_gold_edits
from t5x_ext.metrics.predictions import read_predictions, write_predictions
from t5x_ext.metrics.scoring import Measured, measure
from t5x_ext.metrics.tokens import mixed_tokens
from t5x_ext.terminal import Parser, command, note, show, show_json

_FIELDS = ("task", "category")
_TITLES = {"rougeL": "ROUGE-L", "rouge1": "ROUGE-1", "exact_match": "exact match"}


def _by(text: str) -> list[str]:
    fields = [field.strip() for field in text.split(",") if field.strip()]
    for field in fields:
        if field not in _FIELDS:
            raise ConfigError(f"--by: '{field}' is unknown; allowed: {', '.join(_FIELDS)}")
    return fields


def _metrics(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError("--metrics: no name; allowed: names of metrics, as in rougeL,sari")
    for name in names:
        get_metric(name)  # an unknown one is refused before the file is read
    return names


def summarise(
    path: str,
    by: Sequence[str] = (),
    out: str | None = None,
    metrics: Sequence[str] | None = None,
    m2: str | None = None,
    compare: str | None = None,
) -> dict[str, Any]:
    """Scores the file at `path`.

    Args:
        path: a predictions file.
        by: any of "task", "category": groups to report besides the overall scores.
        out: where to write the rows with their `score`; nothing is written if None.
        metrics: names of metrics for all tasks; None takes those that each task names.
        m2: an M2 file with the gold edits of the predictions, in their order.
        compare: predictions of another system for the same instances.

    Returns:
        {"file", "predictions", "tasks", "metrics": {key: what it is},
        "overall": {"instances": {...}, "tasks": {...}}, "by_task"/"by_category": {name: {...}},
        "difference": as "overall"}, where {...} is {"n", "means": {key: {mean, low, high}}}, in
        percent.

    Raises:
        ConfigError: a file cannot be read or written, or does not fit the others.
    """
    for flag, file in (("--out", out), ("--m2", m2), ("--compare", compare)):
        if file is not None:
            files.path(file, flag)  # a path that no file can have is refused before the scoring
    measured = _measure(path, metrics, m2)
    if out is not None:
        write_predictions(out, measured.rows)
    groups = [aggregate.over_instances(measured), aggregate.over_tasks(measured)]
    summary: dict[str, Any] = {
        "file": path,
        "predictions": len(measured.rows),
        "tasks": groups[1].n,
        "metrics": {column.metric.key: column.metric.variant for column in measured.columns},
        "overall": _to_dicts(groups),
    }
    for field in by:
        summary[f"by_{field}"] = _to_dicts(aggregate.by_field(measured, field))
    if compare is not None:
        other = _measure(compare, metrics, m2)
        summary["difference"] = _to_dicts(aggregate.differences(measured, other))
    return summary


def _measure(path: str, metrics: Sequence[str] | None, m2: str | None) -> Measured:
    rows = read_predictions(path)
    if m2 is not None:
        rows = with_gold_edits(rows, m2)
    measured = measure(rows, metrics, processes=os.cpu_count() or 1)
    for name in ("sari", "bleu"):  # other metrics of rewriting tokenise answers like their sources
        columns = [c for c in measured.columns if c.metric.name.startswith(name)]
        compared = [rows[i] for i in sorted({i for c in columns for i in c.places.tolist()})]
        for task, what in mixed_tokens(compared).items():
            note(f"{path}: task '{task}': {what}; {name.upper()} compares them as they are")
    return measured


def _to_dicts(groups: Sequence[aggregate.Group]) -> dict[str, dict[str, object]]:
    return {
        group.name: {
            "n": group.n,
            "means": {key: asdict(each) for key, each in group.means.items()},
        }
        for group in groups
    }


def _table(title: str, groups: dict[str, dict], keys: Sequence[str]) -> list[str]:
    groups = {printable(name): group for name, group in groups.items()}
    width = max(map(len, [title, *groups]))
    titles = {key: _TITLES.get(key, key) for key in keys}
    widths = {key: max(23, len(shown)) for key, shown in titles.items()}
    head = f"{title:<{width}}  {'n':>6}" + "".join(f"  {titles[k]:>{widths[k]}}" for k in keys)
    lines = [head, "-" * len(head)]
    for name, group in groups.items():
        row = f"{name:<{width}}  {group['n']:>6}"
        for key in keys:
            score = group["means"].get(key)
            cell = "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**score) if score else "-"
            row += f"  {cell:>{widths[key]}}"
        lines.append(row)
    return [*lines, ""]


def _lines(summary: dict[str, Any], by: Sequence[str]) -> list[str]:
    keys = list(summary["metrics"])
    lines = [line for field in by for line in _table(field, summary[f"by_{field}"], keys)]
    corpus = any(summary["metrics"].values())
    lines += _table("score over" if corpus else "mean over", summary["overall"], keys)
    if "difference" in summary:
        lines += _table("higher than the other file, over", summary["difference"], keys)
    lines += [f"{key}: {what}" for key, what in summary["metrics"].items() if what]
    return [*lines, "percent; in brackets 95% bootstrap intervals"]


def _parser() -> Parser:
    parser = Parser("score", __doc__)
    parser.add_argument(
        "predictions", help="predictions file (JSONL) written by eval, infer or a study"
    )
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        help="metrics for all tasks, such as rougeL,sari (default: those that each task names)",
    )
    parser.add_argument(
        "--m2", metavar="FILE", help="M2 file with gold edits, a sentence for each prediction"
    )
    parser.add_argument(
        "--compare", metavar="FILE", help="predictions of the same instances to compare with"
    )
    parser.add_argument(
        "--by",
        default="",
        metavar="FIELDS",
        help="also score by task, by category or by both (task,category)",
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
    by, metrics = _by(args.by), _metrics(args.metrics)
    summary = summarise(args.predictions, by, args.out, metrics, args.m2, args.compare)
    if args.json:
        show_json(summary)
    else:
        show(*_lines(summary, by))


if __name__ == "__main__":
    sys.exit(main())
