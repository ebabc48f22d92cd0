"""A report as one HTML file: style and pictures inside, no request to anywhere, no script."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources
from pathlib import Path

from t5x_ext.reports.document import Block, Document, Paragraph, Picture, Sample, Section, Table

_TONES = {"Supported": "good", "Partly supported": "mixed"}


def render(document: Document, pictures: Path) -> str:
    """The whole page.

    Args:
        document: the report; every text in it is escaped here.
        pictures: directory with the pictures' SVG files, which are embedded.
    """
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>"
        for name, text in document.facts
    )
    claim = document.claim
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in claim.sentences)
    sections = "\n".join(_section(section, pictures) for section in document.sections)
    style = resources.files("t5x_ext.reports").joinpath("report.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(document.title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{escape(document.title)}</h1>
<div class="claim {_TONES.get(claim.verdict, "plain")}">
<p class="verdict"><strong>{escape(claim.verdict)}:</strong> {escape(claim.meaning)}</p>
<ul>{sentences}</ul>
</div>
<dl class="facts">{facts}</dl>
{sections}
</main>
</body>
</html>
"""


def _section(section: Section, pictures: Path) -> str:
    blocks = "\n".join(_block(block, pictures) for block in section.blocks)
    title = f"<h2>{escape(section.title)}</h2>"
    if section.folded:
        return f"<details><summary>{title}</summary>\n{blocks}\n</details>"
    return f"<section>{title}\n{blocks}\n</section>"


def _block(block: Block, pictures: Path) -> str:
    if isinstance(block, Paragraph):
        kind = ' class="warning"' if block.warning else ""
        return f"<p{kind}>{escape(block.text)}</p>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return _picture(block, pictures)
    return _sample(block)


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str, strong: bool = False) -> str:
        kinds = ("" if i < table.text_columns else ' class="n"' for i in range(len(cells)))
        body = "".join(
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        )
        return f'<tr class="strong">{body}</tr>' if strong else f"<tr>{body}</tr>"

    groups = "".join(
        f'<th class="g" colspan="{columns}">{escape(text)}</th>' for text, columns in table.groups
    )
    # "ROUGE-1" is one word; a browser would break it at its hyphen.
    header = tuple(cell.replace("ROUGE-", "ROUGE\u2011") for cell in table.header)
    head = (f"<tr>{groups}</tr>" if groups else "") + row(header, "th")
    rows = "\n".join(row(r, "td", i in table.strong_rows) for i, r in enumerate(table.rows))
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="table"><table><caption>{escape(table.caption)}</caption>'
        f"<thead>{head}</thead>\n<tbody>{rows}</tbody></table></div>{note}"
    )


def _picture(picture: Picture, pictures: Path) -> str:
    # As an image rather than inline: the ids inside two SVGs could clash.
    data = base64.b64encode((pictures / f"{picture.name}.svg").read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(picture.alt)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _sample(sample: Sample) -> str:
    answers = "".join(
        f"<dt>{escape(label)} <span>ROUGE-L {score:.0f}</span></dt><dd>{escape(text) or '∅'}</dd>"
        for label, text, score in sample.answers
    )
    references = "\n".join(sample.references)
    return (
        f'<article class="sample"><h3>{escape(sample.title)}</h3><pre>{escape(sample.inputs)}</pre>'
        f"<dl><dt>Reference</dt><dd>{escape(references)}</dd>{answers}</dl></article>"
    )
