"""Every metric by name."""

from __future__ import annotations

from collections.abc import Callable

from t5x_ext.errors import ConfigError, nearest
from t5x_ext.metrics import exact_match, outputs, rouge, squad
from t5x_ext.metrics.bleu import Bleu
from t5x_ext.metrics.errant import Errant
from t5x_ext.metrics.errant_library import LibraryExtractor
from t5x_ext.metrics.gleu import Gleu, SentenceGleu
from t5x_ext.metrics.labels import LabelValidity, label_accuracy
from t5x_ext.metrics.m2 import MaxMatch
from t5x_ext.metrics.metric import Metric, RowMean
from t5x_ext.metrics.pairs import PairScore
from t5x_ext.metrics.sari import CorpusSari, SentenceSari

_METRICS: dict[str, Callable[[], Metric]] = {
    "rougeL": lambda: RowMean("rougeL", rouge.rouge_l),
    "rouge1": lambda: RowMean("rouge1", rouge.rouge_1),
    "exact_match": lambda: RowMean("exact_match", exact_match.score),
    "exact": lambda: RowMean("exact", exact_match.exact),
    "squad_em": lambda: RowMean("squad_em", squad.exact_match),
    "f1": lambda: RowMean("f1", squad.f1),
    "f1_empty_matches_empty": lambda: RowMean(
        "f1_empty_matches_empty", squad.f1_empty_matches_empty
    ),
    "f1_box": lambda: RowMean("f1_box", squad.f1_box),
    "label_accuracy": label_accuracy,
    "label_validity": LabelValidity,
    "pairs_precision": lambda: PairScore("precision"),
    "pairs_recall": lambda: PairScore("recall"),
    "pairs_f1": lambda: PairScore("f1"),
    "sari": CorpusSari,
    "sari_original": lambda: SentenceSari(original=True),
    "sari_hf": lambda: SentenceSari(original=False),
    "gleu": Gleu,
    "gleu_python2": lambda: Gleu("python2"),
    "gleu_closed": lambda: Gleu("closed form"),
    "gleu_sentence": SentenceGleu,
    "m2": MaxMatch,
    "unchanged": outputs.unchanged,
    "empty": outputs.empty,
    "run_away": outputs.run_away,
    "stopped": outputs.stopped,
    "words": outputs.words,
    "edit_distance": outputs.EditDistance,
    "over_corrected": outputs.OverCorrected,
    "errant": Errant,
    "errant_ds": lambda: Errant("errant_ds", "ds"),
    "errant_dt": lambda: Errant("errant_dt", "dt"),
    "errant_spacy": lambda: Errant("errant_spacy", "cs", LibraryExtractor()),
    "errant_spacy_cse": lambda: Errant("errant_spacy_cse", "cse", LibraryExtractor()),
    "bleu": Bleu,
    "bleu_intl": lambda: Bleu("intl"),
    "bleu_none": lambda: Bleu("none"),
}

NAMES = tuple(_METRICS)


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _METRICS:
        raise ConfigError(f"metric '{name}': unknown{nearest(name, NAMES)}")
    return _METRICS[name]()
