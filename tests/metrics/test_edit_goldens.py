"""Edits and their F0.5 are those of m2scorer and ERRANT, on the rows of $WRITING_TEST_DIR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixtures.writing.gold_edits import parse_gold_edits
from mixtures.writing.m2 import Edit, read_m2
from t5x_ext.metrics import Prediction, get_metric
from t5x_ext.metrics import errant as errant_module
from t5x_ext.metrics import m2 as m2_module
from t5x_ext.metrics.edit_extraction import align, extract_edits, merge
from t5x_ext.metrics.errant_library import LibraryExtractor, is_installed
from t5x_ext.metrics.word_classes import classify

EXACT = 1e-9
MODES: tuple[errant_module.Mode, ...] = ("cs", "ds", "dt", "cse")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def m2_row(fields: dict[str, Any]) -> Prediction:
    prediction, source = fields["prediction"], fields["source"]
    edits = parse_gold_edits(fields["gold"], "golden", source)
    return Prediction("t", "", "", "", ("",), prediction, source=source, edits=edits)


def triples(edits: Any) -> list[tuple[int, int, str]]:
    return [(edit.start, edit.end, edit.corrections[0]) for edit in edits]


def check_m2(rows: list[Prediction], score: dict[str, Any], name: str) -> None:
    chosen = m2_module.choose_annotators(rows)
    counts = np.sum([each for each, _ in chosen], axis=0)
    assert counts.tolist() == [score["correct"], score["proposed"], score["gold"]], name
    expected = [score["precision"], score["recall"], score["f0.5"]]
    assert m2_module.MaxMatch().parts(counts) == pytest.approx(expected, abs=EXACT), name
    if "annotators" in score:
        assert [annotator for _, annotator in chosen] == score["annotators"], name


def test_max_match_of_sentences_and_corpora(writing_dir: Path) -> None:
    for name in ("m2.jsonl", "m2_corpora.jsonl"):
        for golden in lines(writing_dir / "goldens" / name):
            rows = [m2_row(fields) for fields in golden.get("data", [golden])]
            check_m2(rows, golden["score"], golden["id"])


def test_max_match_of_whole_jfleg(writing_dir: Path) -> None:
    data = lines(writing_dir / "data" / "jfleg.dev.jsonl")
    sentences = read_m2(writing_dir / "data" / "m2" / "jfleg.dev.errant.m2")
    rows = []
    for fields, sentence in zip(data, sentences, strict=True):
        source, edits = sentence.source, sentence.edits
        gold = {annotator - 1: edits[annotator] for annotator in (1, 2, 3)}
        output = fields["references"][0]
        rows.append(Prediction("t", "", "", "", ("",), output, source=source, edits=gold))
    for golden in lines(writing_dir / "goldens" / "m2_sets.jsonl"):
        chosen = range(len(rows)) if golden["indices"] == "all" else golden["indices"]
        part = [rows[i] for i in chosen]
        check_m2(part, golden["score"], golden["id"])


def test_max_match_ends_on_output_that_repeats_itself() -> None:
    source = "Hence , there is no legal obligation to tell the relatives ."
    edits = {0: (Edit(3, 4, ("was",)),)}
    output = " ".join(["Hence , there is no legal obligation ."] * 20)
    row = Prediction("t", "", "", "", ("",), output, source=source, edits=edits)
    assert m2_module.choose_annotators([row]) == [((0, 1, 1), 0)]


@pytest.mark.parametrize("mode", MODES)
def test_comparison_of_edits(writing_dir: Path, mode: errant_module.Mode) -> None:
    for name in ("errant_compare.jsonl", "errant_compare_corpora.jsonl"):
        for golden in lines(writing_dir / "goldens" / name):
            sentences = [
                (
                    parse_gold_edits({"0": fields["hypothesis_edits"]}, "golden")[0],
                    parse_gold_edits(fields["gold"], "golden"),
                )
                for fields in golden.get("data", [golden])
            ]
            chosen = errant_module.choose_annotators(sentences, mode)
            counts = np.sum([each for each, _ in chosen], axis=0)
            score = golden["score"][mode]
            assert counts.tolist() == [score["tp"], score["fp"], score["fn"]], golden["id"]
            expected = [score["precision"], score["recall"], score["f0.5"]]
            assert get_metric("errant").parts(counts) == pytest.approx(expected, abs=EXACT)


def test_plain_extractors_are_errants(writing_dir: Path) -> None:
    for golden in lines(writing_dir / "goldens" / "errant_extract.jsonl"):
        source, output = (classify(tuple(golden[k].split())) for k in ("source", "prediction"))
        operations = align(source, output, plain=True)
        for merging in ("all-merge", "all-split", "all-equal"):
            found = triples(merge(source, output, operations, merging))
            expected = golden["lev_" + merging.replace("-", "_")]
            assert found == [tuple(edit) for edit in expected], (golden["id"], merging)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_own_extractor_agrees_with_errant(writing_dir: Path, split: str) -> None:
    """On JFLEG, an F1 of edits of at least 0.95 (spec 10), without a model of the language."""
    data = lines(writing_dir / "data" / f"jfleg.{split}.jsonl")
    common = own = theirs = identical = pairs = 0
    sentences = read_m2(writing_dir / "data" / "m2" / f"jfleg.{split}.errant.m2")
    for fields, sentence in zip(data, sentences, strict=True):
        for annotator, gold in sentence.edits.items():
            output = fields["references"][annotator].split()
            found = set(triples(extract_edits(sentence.source.split(), output)))
            wanted = set(triples(gold))
            common += len(found & wanted)
            own, theirs = own + len(found), theirs + len(wanted)
            identical += found == wanted
            pairs += 1
    agreement = 2 * common / (own + theirs)
    print(f"{split}: {pairs} pairs, F1 of edits {agreement:.4f}, same {identical / pairs:.4f}")
    assert agreement >= 0.97
    assert identical / pairs >= 0.95


def test_own_extractor_on_the_golden_pairs(writing_dir: Path) -> None:
    goldens = lines(writing_dir / "goldens" / "errant_extract.jsonl")
    found = [
        set(triples(extract_edits(g["source"].split(), g["prediction"].split()))) for g in goldens
    ]
    wanted = [{tuple(edit[:3]) for edit in golden["errant"]} for golden in goldens]
    common = sum(len(a & b) for a, b in zip(found, wanted, strict=True))
    assert 2 * common / (sum(map(len, found)) + sum(map(len, wanted))) >= 0.95


def test_f_of_jfleg_with_gold_edits_of_errant(writing_dir: Path) -> None:
    """0.5150 with ERRANT's own edits on both sides; ours of the system is within a point."""
    data = lines(writing_dir / "data" / "jfleg.dev.jsonl")
    sentences = read_m2(writing_dir / "data" / "m2" / "jfleg.dev.errant.m2")
    pairs, exact = [], []
    for fields, sentence in zip(data, sentences, strict=True):
        source, edits = sentence.source, sentence.edits
        gold = {annotator: edits[annotator] for annotator in (1, 2, 3)}
        pairs.append((extract_edits(source.split(), fields["references"][0].split()), gold))
        exact.append((edits[0], gold))
    golden = lines(writing_dir / "goldens" / "errant_sets.jsonl")[0]["scores"]
    metric = get_metric("errant")

    def score(sentences: Any) -> float:
        chosen = errant_module.choose_annotators(sentences)
        return float(metric.finish(np.sum([each for each, _ in chosen], axis=0)))

    assert score(exact) == pytest.approx(golden["hyp default / gold ERRANT"]["f0.5"], abs=EXACT)
    assert score(pairs) == pytest.approx(score(exact), abs=0.01)


@pytest.mark.skipif(not is_installed(), reason="the extra t5x_ext[errant] is not installed")
def test_the_errant_extra_is_exact(writing_dir: Path) -> None:
    extractor = LibraryExtractor()
    for golden in lines(writing_dir / "goldens" / "errant_extract.jsonl"):
        found = extractor.find_edits(golden["source"].split(), golden["prediction"].split())
        assert [[edit.start, edit.end, edit.corrections[0], edit.type] for edit in found] == golden[
            "errant"
        ], golden["id"]
