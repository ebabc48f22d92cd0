"""Tables of arms by datasets: scores, differences, precision and recall, what outputs look like."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from t5x_ext.metrics.resampling import Interval
from t5x_ext.reports.datasets.scores import COPIED, DatasetScores, Row
from t5x_ext.reports.documents.document import Table
from t5x_ext.reports.score_grid import Point
from t5x_ext.reports.study_files import Study
from t5x_ext.reports.wording import ABSENT, signed

_NAMES = {
    "rougeL": "ROUGE-L",
    "rouge1": "ROUGE-1",
    "exact_match": "exact match",
    "f1": "F1",
    "f1_box": "BoX’s F1",
    "pairs_f1": "pairs F1",
    "squad_em": "SQuAD’s exact match",
}
_CAPITALS = {"sari", "gleu", "m2", "errant", "bleu"}
_TRAIT_TITLES = {
    "unchanged": "unchanged, %",
    "over_corrected": "over-corrected, %",
    "empty": "empty, %",
    "run_away": "run-away, %",
    "stopped": "stopped, %",
    "words": "words",
    "edit_distance": "edits per 100 words",
}
_TRAIT_NOTES = {
    "unchanged": "Unchanged: equal to the source.",
    "over_corrected": "Over-corrected: of the texts that no reference changes, those changed.",
    "empty": "Empty: without a word.",
    "run_away": "Run-away: more than twice as long as source and references.",
    "stopped": "Stopped: ended by themselves, not at the length limit.",
    "words": "Words: of an output.",
    "edit_distance": "Edits: words deleted and inserted; a word replaced counts twice.",
}
ROWS_TITLE = "training rows"
_CLEANING = {
    "heading": "cut at a heading",
    "space": "space dropped",
    "lines": "lines joined",
    "quotes": "quotes dropped",
}


def metric_title(key: str) -> str:
    """For readers, with places to break: `"sari[easse,13a]"` -> `"SARI [easse, 13a]"`."""
    name, bracket, variant = key.partition("[")
    name = name.upper() if name in _CAPITALS else _NAMES.get(name, name.replace("_", " "))
    return f"{name} [{variant.replace(',', ', ')}" if bracket else name


def short_name(task: str) -> str:
    """A dataset's name without what it is filed under.

    `"writing.jfleg"` -> `"jfleg"`; `"self.harbour.log.k5"`, of five demonstrations, -> `"log.k5"`;
    `"writing.jfleg.w2"`, in other words, -> `"jfleg.w2"`.
    """
    name, _, shots = task.rpartition(".")
    if re.fullmatch(r"[kw][0-9]+", shots):
        return f"{name.rpartition('.')[2]}.{shots}"
    return shots


def interval_lines(interval: Interval | None) -> str:
    """A score, and its interval on a second line."""
    if interval is None:
        return ABSENT
    return f"{interval.mean:.2f}\n[{interval.low:.1f}, {interval.high:.1f}]"


def difference_text(interval: Interval | None) -> str:
    """A difference, marked where it is clear, and its interval on a second line."""
    if interval is None:
        return ABSENT
    clear = " ▲" if interval.low > 0 else " ▼" if interval.high < 0 else ""
    low, high = (f"{bound:+.1f}".replace("-", "−") for bound in (interval.low, interval.high))
    return f"{signed(interval.mean)}{clear}\n[{low}, {high}]"


def rows_used(row: Row) -> str:
    """Training rows of an arm, as `rows_text` says them; '' of a bound."""
    return rows_text(row.point) if row.point else ""


def rows_text(point: Point) -> str:
    """Training rows in all, and on a second line those per task where these are fewer.

    `"300\\n(50 per task)"`, `"80"`
    """
    total, each = point.train_rows, point.labels_per_task
    if point.counts_in_all:
        return f"{each:,.0f}"
    if not total:  # not recorded
        return f"{each:,.0f} per task"
    return f"{total:,.0f}\n({each:,.0f} per task)" if each else f"{total:,.0f}"


def strongest(figures: Sequence[Sequence[float]], before: int) -> frozenset[tuple[int, int]]:
    """The highest of each column in which numbers differ, as cells of a table: (row, column).

    Args:
        figures: [arms, columns], NaN where there is none.
        before: columns of the table before the first of them.
    """
    values = np.round(np.array(figures), 2)  # as they are shown
    there = ~np.isnan(values)
    highest = np.max(values, axis=0, initial=-np.inf, where=there)
    lowest = np.min(values, axis=0, initial=np.inf, where=there)
    rows, columns = np.nonzero((values == highest) & (lowest < highest))
    return frozenset((int(i), before + int(k)) for i, k in zip(rows, columns, strict=True))


def _groups(scores: DatasetScores, places: Sequence[int], before: int) -> tuple:
    """Headings: each dataset over its columns, after `before` columns without one."""
    tasks = [scores.columns[i].task for i in places]
    return (("", before), *((short_name(task), tasks.count(task)) for task in dict.fromkeys(tasks)))


def means_of(row: Row, columns: Iterable[Sequence[int]]) -> list[float]:
    """The mean of each group of columns; NaN where one is missing."""
    return [float(row.values[list(at)].mean()) if row.has(at) else math.nan for at in columns]


def score_table(scores: DatasetScores) -> Table:
    """Every arm and bound on every dataset by each of its metrics, with intervals."""
    places = scores.places()
    several = len(scores.heads) > 1
    columns = [*([scores.heads] if several else []), *([i] for i in places)]
    return Table(
        "Scores by dataset",
        (
            "model",
            ROWS_TITLE,
            *(("mean",) if several else ()),
            *(metric_title(scores.columns[i].metric.key) for i in places),
        ),
        tuple(
            (row.label, rows_used(row), *(interval_lines(row.interval(at)) for at in columns))
            for row in (*scores.rows, *scores.bounds)
        ),
        note=_score_note(scores),
        groups=_groups(scores, places, 2 + several),
        strong_cells=strongest([means_of(row, columns) for row in scores.rows], before=2),
    )


def _score_note(scores: DatasetScores) -> str:
    variants = {scores.columns[i].metric: None for i in scores.places()}
    stated = {m.key: f"{metric_title(m.key)}: {m.variant}." for m in variants if m.variant}
    several = " The mean is over the first metric of each set." if len(scores.heads) > 1 else ""
    is_rewriting = any(row.label == COPIED for row in scores.bounds)
    copying = " Copying the source is what a model that changes nothing scores." * is_rewriting
    against = "the others, where a text has several" if is_rewriting else "all of them"
    return (
        "Percent; in brackets 95% bootstrap intervals over test inputs, and over seeds where "
        f"there are several. The highest of each column is bold.{several}{copying} The first "
        f"reference is scored against {against}. {' '.join(stated.values())}"
    ).strip()


def difference_tables(scores: DatasetScores, places: Sequence[int] = ()) -> list[Table]:
    """A table per reference arm: how much higher every other row scores, in pairs.

    Args:
        scores: of all arms.
        places: the columns to show; empty for all.
    """
    places = places or scores.places()
    several = len(scores.heads) > 1
    columns = [*([scores.heads] if several else []), *([i] for i in places)]
    titles = (metric_title(scores.columns[i].metric.key) for i in places)
    header = ("model", ROWS_TITLE, *(("mean",) if several else ()), *titles)
    return [
        Table(
            f"Points above “{reference.label}”",
            header,
            tuple(
                (
                    row.label,
                    rows_used(row),
                    *(difference_text(row.above(reference, at)) for at in columns),
                )
                for row in scores.rows
                if row is not reference
            ),
            note="Both arms answer the same test inputs, which are drawn in pairs. ▲ and ▼: the "
            "95% interval excludes 0. The intervals are not adjusted for multiple comparisons.",
            groups=_groups(scores, places, 2 + several),
        )
        for reference in scores.references
    ]


def parts_table(scores: DatasetScores) -> Table | None:
    """Precision, recall and F of the metrics made of them, or None if there are none."""
    rows = [*scores.rows, *scores.bounds]
    places = [i for i in scores.places() if any(i in row.parts for row in rows)]
    if not places:
        return None
    columns = [scores.columns[i] for i in places]
    return Table(
        "Precision and recall of edits",
        ("model", ROWS_TITLE, *("P", "R", "F0.5") * len(places)),
        tuple(
            (row.label, rows_used(row), *(cell for i in places for cell in _parts(row, i)))
            for row in rows
        ),
        note="Percent. A model that changes nothing has precision 100 and recall 0.",
        groups=(
            ("", 2),
            *((f"{short_name(c.task)}: {metric_title(c.metric.key)}", 3) for c in columns),
        ),
    )


def _parts(row: Row, place: int) -> list[str]:
    found = row.parts.get(place)
    return [ABSENT] * 3 if found is None else [f"{value:.2f}" for value in found]


def trait_table(study: Study, scores: DatasetScores) -> Table:
    """What outputs look like, mean over datasets, and how many answers each clean-up changed."""
    names = [name for name in _TRAIT_TITLES if scores.trait(name)]
    steps = [
        step for step in _CLEANING if any(step in cell.cleaned_answers for cell in study.cells)
    ]
    rows = [
        (
            row.label,
            rows_used(row),
            *(mean_text(row, scores.trait(name)) for name in names),
            *(_cleaned(study, row, step) for step in steps),
        )
        for row in (*scores.rows, *scores.bounds)
    ]
    counted = " The last columns count answers that were cleaned before scoring." if steps else ""
    return Table(
        "What outputs look like",
        (
            "model",
            ROWS_TITLE,
            *(_TRAIT_TITLES[name] for name in names),
            *(_CLEANING[step] for step in steps),
        ),
        tuple(rows),
        note=" ".join(["Mean over datasets.", *map(_TRAIT_NOTES.__getitem__, names)]) + counted,
    )


def trait_by_dataset_table(scores: DatasetScores) -> Table | None:
    """Copies and edits on each dataset, or None if nothing is rewritten."""
    names = {"unchanged": "copies", "edit_distance": "edits"}
    places = [i for i in scores.places(traits=True) if scores.columns[i].metric.name in names]
    if not places:
        return None
    return Table(
        "Unchanged outputs and edits by dataset",
        (
            "model",
            ROWS_TITLE,
            *(names[scores.columns[i].metric.name] for i in places),
        ),
        tuple(
            (row.label, rows_used(row), *(mean_text(row, [i]) for i in places))
            for row in (*scores.rows, *scores.bounds)
        ),
        note="Copies: unchanged outputs, percent. Edits: per 100 words of the source.",
        groups=_groups(scores, places, 2),
    )


def mean_text(row: Row, places: Sequence[int]) -> str:
    """The mean of some columns, `"31.4"`."""
    return f"{row.values[list(places)].mean():.1f}" if row.has(places) else ABSENT


def _cleaned(study: Study, row: Row, step: str) -> str:
    if row.point is None:
        return ""
    cells = study.cells_of(row.arm, row.budget)
    return f"{sum(cell.cleaned_answers.get(step, 0) for cell in cells):,}"
