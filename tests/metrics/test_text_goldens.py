"""SARI, GLEU, BLEU and answers score what the published programs score, row by row.

The rows are read from $WRITING_TEST_DIR: the sets they come from are under their own licences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t5x_ext.metrics import Prediction, get_metric, measure
from t5x_ext.metrics import gleu as gleu_module
from t5x_ext.metrics.resampling import total
from t5x_ext.metrics.sari import CorpusSari

EXACT = 1e-9


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def row(fields: dict[str, Any], prediction: str | None = None) -> Prediction:
    references = tuple(fields["references"])
    text = fields["prediction"] if prediction is None else prediction
    return Prediction("t", "", "", "", references, text, source=fields.get("input"))


def corpus_score(name: str, rows: list[Prediction]) -> float:
    metric = get_metric(name)
    return float(metric.finish(total(metric.statistics(rows))))


def whole_set(writing_dir: Path, golden: dict[str, Any]) -> Iterator[Prediction]:
    """The rows that a golden of a whole set was computed on."""
    name, _, selection = golden["dataset"].partition("[")
    label = selection.removeprefix("label=").split(",")[0].rstrip("]")
    for fields in lines(writing_dir / "data" / f"{name}.jsonl"):
        meta = fields["meta"]
        if selection and not (meta.get("label") == label and meta["editeval_keeps"]):
            continue
        prediction, references = fields["input"], list(fields["references"])
        if found := re.match(r"references\[(\d)\]", golden["prediction"]):
            prediction = references.pop(int(found[1]))
        if golden["prediction"].endswith("references[0] only"):
            references = references[:1]
        if "tokens 4, 9, 14" in golden["prediction"]:
            prediction = " ".join(t for i, t in enumerate(prediction.split()) if i % 5 != 4)
        yield row({**fields, "references": references}, prediction)


def test_sari_of_every_sentence(writing_dir: Path) -> None:
    for golden in lines(writing_dir / "goldens" / "sari.jsonl"):
        one = [row(golden)]
        metric = CorpusSari()
        parts = 100 * metric.operations(total(metric.statistics(one)))
        expected = [golden["easse"][part] for part in ("add", "keep", "del")]
        assert parts == pytest.approx(expected, abs=EXACT), golden["id"]
        for name in ("hf", "original"):
            score = 100 * corpus_score(f"sari_{name}", one)
            assert score == pytest.approx(golden[name]["sari"], abs=EXACT), golden["id"]


def test_sari_of_corpora(writing_dir: Path) -> None:
    for golden in lines(writing_dir / "goldens" / "sari_corpora.jsonl"):
        rows = [row(fields) for fields in golden["data"]]
        expected = {
            "sari": golden["easse"]["sari"],
            "sari_hf": golden["hf"]["sari"],
            "sari_original": golden["original_mean"],
        }
        for name, score in expected.items():
            assert 100 * corpus_score(name, rows) == pytest.approx(score, abs=EXACT), golden["id"]


@pytest.mark.parametrize("prediction", ["input", "references[0]"])
def test_sari_of_whole_sets(writing_dir: Path, prediction: str) -> None:
    goldens = lines(writing_dir / "goldens" / "sari_sets.jsonl")
    of_moderate_size = (golden for golden in goldens if golden["rows"] < 1000)
    chosen = [golden for golden in of_moderate_size if golden["prediction"] == prediction]
    assert chosen
    for golden in chosen:
        rows = list(whole_set(writing_dir, golden))
        assert len(rows) == golden["rows"]
        score = 100 * corpus_score("sari", rows)
        assert score == pytest.approx(golden["easse"]["sari"], abs=EXACT), golden["id"]


def test_gleu_of_every_sentence(writing_dir: Path) -> None:
    metric = gleu_module.Gleu()
    for golden in lines(writing_dir / "goldens" / "gleu.jsonl"):
        mean = golden["sentence"]["mean"]
        assert corpus_score("gleu_sentence", [row(golden)]) == pytest.approx(mean, abs=EXACT)
        scores = metric.iterations(total(metric.statistics([row(golden)])))
        stated = golden["corpus_of_one"]
        assert scores.mean() == pytest.approx(stated["mean"], abs=EXACT), golden["id"]
        assert scores.std() == pytest.approx(stated["std"], abs=EXACT), golden["id"]


@pytest.mark.parametrize("draws", ["python3", "python2"])
def test_gleu_of_corpora_and_sets(writing_dir: Path, draws: Any) -> None:
    directory = writing_dir / "goldens"
    metric = gleu_module.Gleu(draws)
    corpora = [
        (golden, [row(fields) for fields in golden["data"]])
        for golden in lines(directory / "gleu_corpora.jsonl")
    ]
    corpora += [
        (golden, list(whole_set(writing_dir, golden)))
        for golden in lines(directory / "gleu_sets.jsonl")
        if "spellchecked" not in golden["id"]
    ]
    for golden, rows in corpora:
        scores = metric.iterations(total(metric.statistics(rows)))
        stated = golden[draws]
        first = stated["first_iterations"]
        assert scores[: len(first)] == pytest.approx(first, abs=EXACT), golden["id"]
        assert scores.mean() == pytest.approx(stated["mean"], abs=EXACT), golden["id"]
        assert metric.finish(total(metric.statistics(rows))) == scores.mean()


def test_gleu_draws_the_references_of_the_published_program(writing_dir: Path) -> None:
    for golden in json.loads((writing_dir / "goldens" / "gleu_seeds.json").read_text()):
        for draws in ("python3", "python2"):
            drawn = gleu_module.draw_references((4,) * 20, draws)[golden["iteration"]]
            assert drawn.tolist() == golden[f"{draws}_4_references"]


def test_closed_form_of_gleu_is_near_the_draws(writing_dir: Path) -> None:
    golden = {"dataset": "jfleg.dev", "prediction": "input"}
    rows = list(whole_set(writing_dir, golden))
    assert corpus_score("gleu_closed", rows) == pytest.approx(corpus_score("gleu", rows), abs=2e-3)


def test_bleu(writing_dir: Path) -> None:
    names = {"13a": "bleu", "intl": "bleu_intl", "none": "bleu_none"}
    for golden in lines(writing_dir / "goldens" / "bleu.jsonl"):
        for tokenizer, name in names.items():
            scored = measure([row(golden)], [name]).rows[0].score
            assert scored is not None
            (score,) = scored.values()
            assert 100 * score == pytest.approx(golden[tokenizer], abs=EXACT), golden["id"]
    for golden in lines(writing_dir / "goldens" / "bleu_corpora.jsonl"):
        rows = [row(fields) for fields in golden["data"]]
        for tokenizer, name in names.items():
            score = 100 * corpus_score(name, rows)
            assert score == pytest.approx(golden[tokenizer], abs=EXACT), golden["id"]


def test_exact_match_and_squad(writing_dir: Path) -> None:
    for golden in lines(writing_dir / "goldens" / "exact_match.jsonl"):
        assert corpus_score("exact", [row(golden)]) == golden["exact"], golden["id"]
    for golden in lines(writing_dir / "goldens" / "squad.jsonl"):
        assert corpus_score("squad_em", [row(golden)]) == golden["exact"], golden["id"]
        assert corpus_score("f1", [row(golden)]) == pytest.approx(golden["f1"], abs=EXACT)


def test_variants_of_f1(specialization_dir: Path) -> None:
    names = {
        "f1": "f1",
        "f1_empty_matches_empty": "f1_empty_matches_empty",
        "f1_box": "f1_box_comma_split",
        "squad_em": "exact_match",
    }
    for golden in lines(specialization_dir / "goldens" / "token_f1.jsonl"):
        for name, field in names.items():
            score = 100 * corpus_score(name, [row(golden)])
            assert score == pytest.approx(golden[field], abs=EXACT), (golden["id"], name)


def test_rows_may_have_different_numbers_of_references() -> None:
    rows = [row({"input": "a b", "references": ["a c"] * n, "prediction": "a c"}) for n in (1, 3)]
    together = corpus_score("sari", rows)
    assert together == pytest.approx(corpus_score("sari", rows[:1]), abs=EXACT)
