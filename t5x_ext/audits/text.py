"""The result of an audit as text: a summary, the flags, a table of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from t5x_ext.audits.flags import KINDS

_FLAGS_SHOWN = 12  # of each kind; --json has all
_SUBJECT_WIDTH = 72
_LENGTHS = ("mean", "p50", "p95", "max")


def render(result: dict[str, Any]) -> str:
    """Writes what `t5x_ext.audit.audit` returned."""
    tasks, vocabulary = result["tasks"], result["vocabulary"]
    lines = [
        f"{len(tasks)} tasks, {sum(task['rows'] for task in tasks)} rows of "
        f"{', '.join(result['mixtures'])} from {result['data_dir']}",
        f"vocabulary of {vocabulary['size']} ids; white space it loses: "
        f"{', '.join(vocabulary['loses']) or 'none'}",
        "",
        *_flag_lines(result["flags"]),
        "",
        *_table_lines(tasks),
    ]
    return "\n".join(lines)


def _flag_lines(flags: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"{len(flags)} flags"
    longest = max((len(flag["subject"]) for flag in flags), default=0)
    width = min(longest, _SUBJECT_WIDTH)
    for kind, group in groupby(flags, key=lambda flag: flag["kind"]):
        found = list(group)
        yield f"\n{kind} ({len(found)}): {KINDS[kind]}"
        for flag in found[:_FLAGS_SHOWN]:
            yield f"  {flag['subject']:<{width}}  {flag['text']}"
        if len(found) > _FLAGS_SHOWN:
            yield f"  ... and {len(found) - _FLAGS_SHOWN} more (--json or --out has all)"


def _table_lines(tasks: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Two lines of titles, then one line a task; % are of the task's rows."""
    columns = [
        ("", ("task",)),
        ("", ("track",)),
        ("rows", ("train", "test")),
        ("prompt tokens", _LENGTHS),
        ("target tokens", _LENGTHS),
        ("cut prompts %", tuple(cut["limit"] for cut in tasks[0]["cuts"])),
        ("top label %", ("train", "test")),
        ("unknown %", ("prompt", "target")),
        ("rewritten %", ("prompt", "target")),
        ("lost space %", ("input", "target")),
    ]
    rows = [[name for _, names in columns for name in names], *map(_cells, tasks)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    groups, at = [], 0
    for title, names in columns:
        group_width = sum(widths[at : at + len(names)]) + 2 * (len(names) - 1)
        groups.append(title.rjust(group_width))
        at += len(names)
    yield "  ".join(groups)
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])


def _cells(task: dict[str, Any]) -> list[str]:
    def percent(count: int) -> str:
        return f"{100 * count / task['rows']:.1f}"

    shares = (task["label"]["train"], task["label"]["test"])
    return [
        task["name"],
        task["track"] or "own",
        str(task["train"]),
        str(task["test"]),
        *(f"{task[part][name]:.0f}" for part in ("prompt", "target") for name in _LENGTHS),
        *(percent(cut["prompts"]) for cut in task["cuts"]),
        *("-" if share is None else f"{100 * share:.1f}" for share in shares),
        *(percent(task[f"unknown_{part}"]) for part in ("prompts", "targets")),
        *(percent(task[f"rewritten_{part}"]) for part in ("prompts", "targets")),
        *(percent(task[f"lost_space_{part}"]) for part in ("inputs", "targets")),
    ]
