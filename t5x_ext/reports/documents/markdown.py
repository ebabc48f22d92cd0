"""A report as Markdown (GitHub's tables)."""

from __future__ import annotations

import re

from t5x_ext.reports.documents.document import Block, Document, Paragraph, Picture, Sample, Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line.

    `"a|b <c>"` -> `"a\\|b \\<c\\>"`
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def render(document: Document) -> str:
    """The whole report; pictures are links to the PNG files next to it."""
    claim = document.claim
    parts = [f"# {escape(document.title)}"]
    parts.append(f"**{escape(claim.verdict)}: {escape(claim.meaning)}.**")
    parts.append("\n".join(f"- {escape(sentence)}" for sentence in claim.sentences))
    parts.append(" · ".join(f"{escape(name)}: {escape(text)}" for name, text in document.facts))
    for section in document.sections:
        parts.append(f"## {escape(section.title)}")
        parts += [render_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def render_block(block: Block) -> str:
    """One block, without surrounding blank lines."""
    if isinstance(block, Paragraph):
        return f"> **Note.** {escape(block.text)}" if block.warning else escape(block.text)
    if isinstance(block, Picture):
        return f"![{escape(block.alt)}]({block.name}.png)\n\n*{escape(block.caption)}*"
    if isinstance(block, Table):
        return _table(block)
    return _sample(block)


def _table(table: Table) -> str:
    rule = ["---" if i < table.text_columns else "---:" for i in range(len(table.header))]
    # Markdown has no headings over several columns: each column repeats its group's.
    groups = [text for text, columns in table.groups for _ in range(columns)]
    groups = groups or [""] * len(table.header)
    header = [f"{group} {head}" for group, head in zip(groups, table.header, strict=True)]
    rows = [[escape(cell) for cell in row] for row in (header, *table.rows)]
    strong = {(i, column) for i in table.strong_rows for column in range(len(table.header))}
    for i, column in strong | table.strong_cells:
        rows[i + 1][column] = f"**{rows[i + 1][column]}**" if rows[i + 1][column] else ""
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
    note = f"\n\n*{escape(table.note)}*" if table.note else ""
    return f"**{escape(table.caption)}**\n\n" + "\n".join(lines) + note


def _sample(sample: Sample) -> str:
    parts = [f"**{escape(sample.title)}**", _fence(sample.inputs), "Reference:"]
    parts.append(_fence("\n".join(sample.references)))
    for label, text, score in sample.answers:
        parts += [f"{escape(label)} ({escape(score)}):", _fence(text)]
    return "\n\n".join(parts)


def _fence(text: str) -> str:
    """A code block whose fence is longer than any run of back-ticks inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
