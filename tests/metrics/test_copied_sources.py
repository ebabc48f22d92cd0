"""What a model scores that changes nothing, on the published sets: the floor of every report."""

from __future__ import annotations

from pathlib import Path

import pytest
from etils import epath

from mixtures.writing.finding import read_set
from mixtures.writing.sets import SETS
from mixtures.writing.tokens import detokenize
from t5x_ext.metrics.predictions import Prediction
from t5x_ext.metrics.scoring import measure

# Percent: JFLEG's by GLEU, the others' by SARI. EditEval's own table of copies has the same to one
# digit.
COPIES = {
    "jfleg": 40.47,
    "iterater_fluency": 32.32,
    "iterater_clarity": 29.49,
    "iterater_coherence": 31.27,
    "asset": 20.73,
    "stsb": 21.15,
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copied_source_scores_what_it_is_known_to(name: str, writing_dir: Path) -> None:
    """As a model copies it: in natural text, whatever the tokens of the set."""
    wanted = SETS[name]
    natural = detokenize if wanted.tokenized else str.strip
    rows = [
        Prediction(
            name,
            wanted.task,
            item.id,
            "",
            item.references,
            natural(item.source),
            source=item.source,
        )
        for item in read_set(epath.Path(writing_dir / "data"), wanted, "test")
    ]
    (column,) = measure(rows, wanted.metrics[:1]).columns
    found = float(column.metric.finish(column.statistics.sum(axis=0)))
    assert 100 * found == pytest.approx(COPIES[name], abs=0.005)
