"""Which metrics a task is scored with, and scores for SeqIO's own evaluator.

Names of metrics are those of `t5x_ext.metrics` (docs/metrics.md); a task that names none has its
three: ROUGE-L, ROUGE-1 and exact match. For upstream T5X, which evaluates these tasks as they are,
the functions below are SeqIO `metric_fns`: ROUGE-L (stemmer on) and exact match (after
lower-casing, removing punctuation and folding white space), each the maximum over an instance's
references, averaged over instances, times 100. These are Tk-Instruct's definitions.
"""

from __future__ import annotations

import fnmatch
import functools
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mixtures.writing.names import PREFIX
from mixtures.writing.rows import metrics_of as _writing_metrics

DEFAULT_METRICS = ("rougeL", "rouge1", "exact_match")

_NAMED: dict[str, tuple[str, ...]] = {}  # what `name_metrics` was told, the latest first

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def name_metrics(tasks: str, metrics: Sequence[str]) -> None:
    """States what tasks are scored with; it comes before what was stated earlier.

    Args:
        tasks: the `task` of rows, or a pattern such as "my_grammar_*".
        metrics: names of metrics (docs/metrics.md), the one for tables first.
    """
    earlier = {name: named for name, named in _NAMED.items() if name != tasks}
    _NAMED.clear()
    _NAMED.update({tasks: tuple(metrics)} | earlier)


def metrics_of(task: str) -> tuple[str, ...]:
    """Names of the metrics that rows of a task are scored with, the first one in tables.

    Args:
        task: the `task` of a row or prediction; or a `writing.*` name; or a `self.*` name that
            SeqIO has been asked for.
    """
    for tasks, named in _NAMED.items():
        if fnmatch.fnmatchcase(task, tasks):
            return named
    return _writing_metrics(task.removeprefix(PREFIX)) or DEFAULT_METRICS


def references_or_text(
    text: str, example: Mapping[str, Any] | None = None, is_target: bool = False
) -> str | list[str]:
    """SeqIO postprocessor: for a target all references of its example, else the text itself."""
    if not is_target or example is None:
        return text
    return [reference.decode("utf-8") for reference in example["references"]]


def rouge_l(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-L F-measure."""
    return {"rougeL": _mean_of_best(_rouge_l, targets, predictions)}


def exact_match(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions that equal a reference."""
    return {"exact_match": _mean_of_best(_exact_match, targets, predictions)}


def _mean_of_best(
    score: Callable[[str, str], float],
    targets: Sequence[Sequence[str]],
    predictions: Sequence[str],
) -> float:
    """100 times the mean over instances of the best score over references."""
    best = [
        max(score(reference, prediction) for reference in references)
        for references, prediction in zip(targets, predictions, strict=True)
    ]
    return 100.0 * sum(best) / len(best)


def _exact_match(reference: str, prediction: str) -> float:
    return float(_fold(reference) == _fold(prediction))


def _fold(text: str) -> str:
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def _rouge_l(reference: str, prediction: str) -> float:
    return _scorer().score(target=reference, prediction=prediction)["rougeL"].fmeasure


@functools.cache
def _scorer() -> Any:
    from rouge_score import rouge_scorer  # a second of imports, which naming metrics does not need

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
