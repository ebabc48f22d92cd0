"""What models were trained on, and what their training took: parameters, memory, time."""

from __future__ import annotations

from t5x_ext.reports.datasets.samples import name_of
from t5x_ext.reports.datasets.scores import DatasetScores
from t5x_ext.reports.datasets.tables import ROWS_TITLE, rows_used
from t5x_ext.reports.documents.document import Table
from t5x_ext.reports.study_files import FinishedCell, Study
from t5x_ext.reports.wording import ABSENT, duration, percent

_FLOAT32 = 4  # bytes


def source_table(study: Study, scores: DatasetScores) -> Table | None:
    """Rows of every set that an arm was trained on, and passes over them; None if not recorded.

    All arms make the same number of steps, so those with fewer rows see them more often.
    """
    rows = []
    for row in scores.rows:
        cells = [cell for cell in study.cells_of(row.arm, row.budget) if cell.sources]
        if cells:
            one = cells[0]  # other seeds draw other rows, as many of each set
            said = ", ".join(f"{name} {count:,}" for name, count in one.sources.items())
            total = sum(one.sources.values())
            rows.append((name_of(row), said, f"{total:,}", f"{one.passes:.2f}"))
    if not rows:
        return None
    return Table(
        "What models were trained on",
        ("model", "rows by set", "rows", "passes over each"),
        tuple(rows),
        note="Every row of a mixture comes once in a pass.",
        text_columns=2,
    )


def tuning_table(study: Study, scores: DatasetScores) -> Table:
    """Parameters, memory, steps and time of each arm, to compare adapters with full tuning."""
    rows = []
    for row in scores.rows:
        cells = study.cells_of(row.arm, row.budget)
        steps, train = sum(c.steps for c in cells), sum(c.train_secs for c in cells)
        one = cells[0]
        rows.append(
            (
                row.label,
                rows_used(row),
                f"{one.trainable_parameters:,}" if one.parameters else ABSENT,
                percent(one.trainable_parameters / one.parameters) if one.parameters else ABSENT,
                _memory(one),
                f"{steps:,}",
                duration(train),
                f"{train / steps:.2f} s" if steps else ABSENT,
                duration(sum(c.decode_secs for c in cells)),
            )
        )
    return Table(
        "Tuning and decoding",
        (
            "model",
            ROWS_TITLE,
            "parameters tuned",
            "of the model",
            "weights, gradients, moments",
            "steps",
            "tuning",
            "a step",
            "decoding",
        ),
        tuple(rows),
        note="Arms that share a tuned model each show the time of its tuning. Weights, gradients, "
        "moments: bytes of all weights as they are stored, and 12 more for every parameter tuned, "
        "a gradient and AdamW's two moments in float32. What a step needs beside these depends on "
        "rows and lengths: `t5x_ext plan` compiles it and tells.",
    )


def _memory(cell: FinishedCell) -> str:
    """Bytes that tuning keeps, "0.51 GiB"; "" where nothing was tuned or recorded."""
    if not cell.trainable_parameters:
        return ""
    weights = cell.parameter_bytes or _FLOAT32 * cell.parameters
    kept = weights + 3 * _FLOAT32 * cell.trainable_parameters
    return f"{kept / 2**30:.2f} GiB" if kept >= 2**30 / 10 else f"{kept / 2**20:.1f} MiB"
