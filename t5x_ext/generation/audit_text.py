"""What `audit_rows` found, for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LISTED = 20  # leaks, and groups of duplicates
_CHARACTERS = 300  # of a text


def render(found: Mapping[str, Any]) -> str:
    """The page as text."""
    lines = [f"{found['rows']:,} synthetic rows", ""]
    words = found["words"]
    lines.append(f"{'words':<14}{'mean':>8}{'median':>8}{'95%':>8}{'longest':>9}")
    for field, sizes in words.items():
        figures = "".join(f"{sizes[name]:>8.0f}" for name in ("mean", "p50", "p95"))
        lines.append(f"{field:<14}{figures}{sizes['longest']:>9,}")
    lines += ["", "repeated"]
    for field, groups in found["duplicates"].items():
        rows = sum(map(len, groups))
        name = "both" if field == "both" else f"the {field}"
        lines.append(f"  {name:<16} {rows:,} rows in {len(groups):,} groups")
        lines += [f"    {', '.join(ids[:5])}" for ids in groups[:3]]
    lines.append(f"copied from seeds: {len(found['seed_copies']):,} fields")
    if found["yields"]:
        lines += ["", *_yields(found["yields"])]
    lines += ["", *_shared(found["shared"])]
    for title, name in (
        ("openings", "openings"),
        ("verbs and nouns", "verb_nouns"),
        ("outputs", "labels"),
    ):
        lines += ["", f"most frequent {title}"]
        lines += [
            f"  {each['share']:>6.1%}  {_short(each['text'], 80)}" for each in found[name][:10]
        ]
    return "\n".join(lines)


def _yields(yields: Mapping[str, Any]) -> list[str]:
    lines = []
    for what in ("tasks", "answers"):
        counts = dict(yields[what])
        written, kept = sum(counts.values()), counts.pop("kept", 0)
        if written:
            lines.append(f"{what} written: {written:,}, of which kept: {kept / written:.1%}")
            lines += [f"  {count / written:>6.1%}  {reason}" for reason, count in counts.items()]
    for what, name in (
        ("answers that ended at the most tokens allowed", "answers_at_limit"),
        ("prompts cut to the model's context", "prompts_cut"),
    ):
        lines.append(f"{what}: {yields[name] / max(1, sum(yields['answers'].values())):.1%}")
    return lines


def _shared(shared: list[dict[str, Any]]) -> list[str]:
    lines = [f"13 words in a row shared with evaluation rows: {len(shared):,} texts"]
    rarest = sorted(shared, key=lambda each: each["evaluation_rows"])
    for each in rarest[:_LISTED]:
        rows = each["evaluation_rows"]
        kind = "1 row has these words" if rows == 1 else f"{rows} rows have these words"
        lines += [
            f"  {each['id']} {each['field']}, {each['evaluation_task']}/{each['evaluation_id']}"
            f" ({kind}: boilerplate is in many)",
            f"    words:      {each['words']}",
            f"    synthetic:  {_short(each['text'])}",
            f"    evaluation: {_short(each['evaluation_text'])}",
        ]
    if len(shared) > _LISTED:
        lines.append(f"  ... and {len(shared) - _LISTED:,} more: --json lists all")
    return lines


def _short(text: str, limit: int = _CHARACTERS) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else f"{folded[:limit]} ..."
