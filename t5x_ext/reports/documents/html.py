"""A report as one HTML file: style, script and pictures inside, no request to anywhere.

The page is complete without its script (report.js), which adds values under the pointer and the
choice of a setting and a category. No other script can run: the policy names this one's hash.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from etils import epath

from t5x_ext import files
from t5x_ext.reports.documents.document import (
    Block,
    Chart,
    Document,
    Paragraph,
    Picture,
    Sample,
    Section,
    Table,
    escape,
)
from t5x_ext.reports.documents.edit_marks import mark_edits
from t5x_ext.reports.documents.svg import draw_key, draw_panel

_WIDE = 9  # columns that fit side by side in the text's width
_TONES = {"Supported": "good", "Partly supported": "mixed"}


def render(document: Document, pictures: epath.Path) -> str:
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
    contents = "".join(
        f'<a href="#{_anchor(section)}">{escape(section.title)}</a>'
        for section in document.sections
    )
    style, script = (_packaged(name) for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
 script-src 'sha256-{digest}'">
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
<nav>{contents}</nav>
{_controls(document)}
{sections}
</main>
<div id="tip" role="status" hidden></div>
<script>{script}</script>
</body>
</html>
"""


def _packaged(name: str) -> str:
    return resources.files("t5x_ext.reports.documents").joinpath(name).read_text(encoding="utf-8")


def _anchor(section: Section) -> str:
    return section.title.lower().replace(" ", "-")


def _section(section: Section, pictures: epath.Path) -> str:
    blocks = "\n".join(_block(block, pictures) for block in section.blocks)
    title = f"<h2>{escape(section.title)}</h2>"
    if section.folded:
        start = f'<details id="{_anchor(section)}"><summary>{title}</summary>'
        return f"{start}\n{blocks}\n</details>"
    return f'<section id="{_anchor(section)}">{title}\n{blocks}\n</section>'


def _block(block: Block, pictures: epath.Path) -> str:
    if isinstance(block, Paragraph):
        kind = ' class="warning"' if block.warning else ""
        return f"<p{kind}>{escape(block.text)}</p>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Chart):
        return _chart(block)
    if isinstance(block, Picture):
        return _picture(block, pictures)
    return _sample(block)


def _table(table: Table) -> str:
    def row(
        cells: tuple[str, ...], tag: str, attributes: str = "", place: int | None = None
    ) -> str:
        body = "".join(
            f"<{tag}{_cell_class(table, place, column)}>{_lines(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr{attributes}>{body}</tr>"

    groups = "".join(
        f'<th class="g" colspan="{columns}">{escape(text)}</th>' for text, columns in table.groups
    )
    # "ROUGE-1" is one word; a browser would break it at its hyphen.
    header = tuple(cell.replace("ROUGE-", "ROUGE\u2011") for cell in table.header)
    head = (f"<tr>{groups}</tr>" if groups else "") + row(header, "th")
    rows = "\n".join(
        row(cells, "td", _row_attributes(table, i), i) for i, cells in enumerate(table.rows)
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    setting = f' data-setting="{escape(table.setting)}"' if table.setting else ""
    wide = " wide" if len(table.header) > _WIDE else ""
    return (
        f'<div{setting}><div class="table{wide}"><table><caption>{escape(table.caption)}</caption>'
        f"<thead>{head}</thead>\n<tbody>{rows}</tbody></table></div>{note}</div>"
    )


def _cell_class(table: Table, row: int | None, column: int) -> str:
    """The attribute of one cell; `row` is None in the heading."""
    kinds = ["n"] if column >= table.text_columns else []
    kinds += ["strong"] if (row, column) in table.strong_cells else []
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _lines(cell: str) -> str:
    first, line_break, rest = escape(cell).partition("\n")
    return f"{first}<br><small>{rest}</small>" if line_break else first


def _row_attributes(table: Table, row: int) -> str:
    strong = ' class="strong"' if row in table.strong_rows else ""
    if row < len(table.categories):
        return f'{strong} data-category="{escape(table.categories[row])}"'
    return strong


def _chart(chart: Chart) -> str:
    panels = "\n".join(
        f'<div class="panel" data-setting="{panel.setting}" '
        f'data-category="{escape(panel.category)}"{" hidden" if panel.category else ""}>'
        f"{draw_panel(panel)}</div>"
        for panel in chart.panels
    )
    keys = {line.label: draw_key(line) for panel in chart.panels for line in panel.lines}
    legend = "".join(f"<li>{key}{escape(label)}</li>" for label, key in keys.items())
    return (
        f'<figure class="chart" role="group" aria-label="{escape(chart.alt)}">'
        f'<ul class="legend">{legend}</ul><div class="panels">{panels}</div>'
        '<p id="nothing" hidden>No score for this choice.</p>'
        f"<figcaption>{escape(chart.caption)}</figcaption></figure>"
    )


def _controls(document: Document) -> str:
    """What the script works with; hidden until it runs."""
    blocks = [block for section in document.sections for block in section.blocks]
    panels = [panel for block in blocks if isinstance(block, Chart) for panel in block.panels]
    settings = list(dict.fromkeys(panel.setting for panel in panels))
    categories = list(dict.fromkeys(panel.category for panel in panels))
    parts = []
    if len(settings) > 1:
        buttons = "".join(
            f'<label><input type="radio" name="setting" value="{value}"'
            f"{'' if value else ' checked'}>{text}</label>"
            for value, text in [("", "Both"), *((each, each) for each in settings)]
        )
        parts.append(f"<fieldset><legend>Setting</legend>{buttons}</fieldset>")
    if len(categories) > 1:
        options = "".join(
            f'<option value="{escape(each)}">{escape(each) or "All tasks"}</option>'
            for each in categories
        )
        parts.append(f'<label>Category <select name="category">{options}</select></label>')
    return f'<form class="controls" autocomplete="off" hidden>{"".join(parts)}</form>'


def _picture(picture: Picture, pictures: epath.Path) -> str:
    # As an image rather than inline: the ids inside two SVGs could clash.
    data = base64.b64encode(files.read_bytes(pictures / f"{picture.name}.svg")).decode()
    return (
        f'<figure><img alt="{escape(picture.alt)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _sample(sample: Sample) -> str:
    def shown(text: str) -> str:
        return _edits(sample.source, text) if sample.source else escape(text) or "∅"

    answers = "".join(
        f"<dt>{escape(label)} <span>{escape(score)}</span></dt><dd>{shown(text)}</dd>"
        for label, text, score in sample.answers
    )
    references = "\n".join(map(shown, sample.references))
    return (
        f'<article class="sample"><h3>{escape(sample.title)}</h3><pre>{escape(sample.inputs)}</pre>'
        f"<dl><dt>Reference</dt><dd>{references}</dd>{answers}</dl></article>"
    )


def _edits(source: str, text: str) -> str:
    """The source with what a text deletes from it and inserts into it."""
    if not text.strip():
        return "∅"
    tags = {"keep": "{}", "delete": "<del>{}</del>", "insert": "<ins>{}</ins>"}
    parts = (tags[kind].format(escape(words)) for kind, words in mark_edits(source, text))
    return " ".join(parts)
