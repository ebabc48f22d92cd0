"""Metrics that SeqIO tasks bring along: of predictions and of scores, as SeqIO's evaluator has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_ext.configs import DatasetConfig
from t5x_ext.data import task_metrics
from t5x_ext.metrics.predictions import Prediction

TEXTS = ["a", "bb", "ccc"]
NAME = "scored_texts"


def likelihood(targets: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    return {"mean_score": float(np.mean(scores)), "targets": float(len("".join(targets)))}


def exact(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    return {"exact": float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def with_aux(targets: Sequence[str], predictions: Sequence[str], aux_values) -> dict[str, float]:
    raise AssertionError("is not computed")


@pytest.fixture
def add_task() -> Iterator:
    def add(*metric_fns) -> DatasetConfig:
        def read(split: str, shuffle_files: bool) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensor_slices({"inputs": TEXTS, "targets": TEXTS})

        seqio.TaskRegistry.add(
            NAME,
            source=seqio.FunctionDataSource(read, splits=("test",)),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={
                key: seqio.Feature(seqio.ByteVocabulary()) for key in ("inputs", "targets")
            },
            metric_fns=list(metric_fns),
        )
        return DatasetConfig(NAME, {"inputs": 8, "targets": 8}, "test", 2)

    yield add
    seqio.TaskRegistry.remove(NAME)


def rows() -> list[Prediction]:
    other = Prediction("other", "", "0", "x", ("x",), "x", False)
    own = [Prediction(NAME, "", str(i), t, (t,), "a", False) for i, t in enumerate(TEXTS)]
    return [other, *own]


def test_metrics_of_scores_are_given_the_likelihoods_of_the_tasks_own_rows(add_task) -> None:
    cfg = add_task(exact, likelihood)
    asked = []

    def score(places: Sequence[int]) -> list[float]:
        asked.append(list(places))
        return [-1.0, -2.0, -6.0]

    found = task_metrics.own_metrics(cfg, rows(), score)
    expected = {"exact": pytest.approx(1 / 3), "mean_score": -3.0, "targets": 6.0}
    assert found == {NAME: expected}
    assert asked == [[1, 2, 3]]


def test_metrics_that_are_left_out_are_told(add_task, caplog) -> None:
    cfg = add_task(exact, likelihood, with_aux)
    assert task_metrics.own_metrics(cfg, rows()) == {NAME: {"exact": pytest.approx(1 / 3)}}
    expected = f"{NAME}: metrics that this evaluation does not compute: with_aux, likelihood"
    assert expected in caplog.text


def test_no_score_is_asked_for_without_such_a_metric(add_task) -> None:
    def score(places: Sequence[int]) -> list[float]:
        raise AssertionError("is not asked for")

    cfg = add_task(exact)
    assert task_metrics.own_metrics(cfg, rows(), score) == {NAME: {"exact": pytest.approx(1 / 3)}}
