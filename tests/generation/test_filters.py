"""Parsing, filters and near-duplicate search meet the goldens; the search finds what comparing all
would find."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from rouge_score import rouge_scorer

from mixtures.records import Row
from mixtures.specialization.records import Seed
from t5x_ext.errors import ConfigError
from t5x_ext.generation.answering import ResponseSettings
from t5x_ext.generation.filters import FilterSettings, TaskFilter, is_placeholder
from t5x_ext.generation.parsing import STOPS, cut_at_stop, parse_completion
from t5x_ext.generation.similarity import SimilarTexts


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def seed(instruction: str, text: str = "an input", **fields: str) -> Seed:
    return Seed(
        **{"id": "s", "domain": "", "task": "", "kind": "", "output": "o"}
        | {"instruction": instruction, "input": text}
        | fields
    )


def test_parsing_meets_the_goldens(specialization_dir: Path) -> None:
    for row in read_jsonl(specialization_dir / "goldens" / "parse_instructions.jsonl"):
        pieces = parse_completion(row["completion"], row["first_number"], row["stopped_by_length"])
        assert [list(p.task) for p in pieces if p.task] == row["items"], row["id"]


def test_the_last_piece_of_a_completion_that_was_cut_is_left_out() -> None:
    text = " Name the drug.\n4. Input:\nA\n###\n5. Instruction: Name the dose.\n5. Input:\n2 m"
    assert [p.task for p in parse_completion(text, cut=True)] == [("Name the drug.", "A")]
    assert len(parse_completion(text)) == 2
    assert parse_completion(" Name the drug.", cut=True) == []


def test_the_number_of_a_task_is_a_whole_number() -> None:
    [piece] = parse_completion(" x\n14. Input:\nnot this\n4. Input:\nthis\n")
    assert piece.task == ("x\n14. Input:\nnot this", "this")


def test_what_follows_an_answer_is_left_out_and_noinput_is_empty() -> None:
    text = " A\n4. Input:\n<NoInput>\n4. Response:\nb\n###\nchatter\n"
    assert [p.task for p in parse_completion(text)] == [("A", ""), None]


def test_a_completion_ends_before_the_21st_task() -> None:
    assert cut_at_stop("a\n###\n21. Instruction: b", STOPS) == ("a\n", True)
    assert cut_at_stop("a\n21. b\n###\n21", STOPS) == ("a", True)
    assert cut_at_stop("a 21. b", STOPS) == ("a 21. b", False)


def test_filters_meet_the_goldens(specialization_dir: Path) -> None:
    goldens = specialization_dir / "goldens"
    seeds = json.loads((goldens / "novelty_seeds.json").read_text())["seeds"]
    filter_ = TaskFilter(seeds=[seed(instruction) for instruction in seeds])
    rows = read_jsonl(goldens / "novelty_filter.jsonl")
    for number, row in enumerate(rows):
        verdict = filter_.judge(row["instruction"], f"the input number {number}")
        assert verdict.reason == row["reason"], row
        assert (verdict.reason is None) == row["kept"]
        assert verdict.nearest == row["nearest"]
        assert verdict.max_rouge_l == pytest.approx(row["max_rouge_l"], abs=1e-12)
    assert len(rows) == 42


def random_texts(count: int, seed_: int) -> list[str]:
    """Texts of 4 to 40 words, of which a few are very common, and many of which are alike."""
    rng = random.Random(seed_)
    words = [f"w{i}" for i in range(400)]
    weights = [1 / (i + 1) for i in range(400)]
    texts = [" ".join(rng.choices(words, weights, k=rng.randint(4, 40))) for _ in range(count // 2)]
    for text in list(texts):
        changed = text.split()
        for _ in range(rng.randint(1, 5)):
            changed[rng.randrange(len(changed))] = rng.choice(words)
        texts.append(" ".join(changed))
    rng.shuffle(texts)
    return texts


def test_the_nearest_text_is_the_one_that_comparing_all_finds() -> None:
    texts = random_texts(90, 0)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    similar = SimilarTexts()
    for number, text in enumerate(texts):
        scores = [scorer.score(other, text)["rougeL"].fmeasure for other in texts[:number]]
        score, nearest = similar.nearest(text)
        assert score == max(scores, default=0.0)
        if score:
            assert nearest == texts[scores.index(score)]
        similar.add(text)


@pytest.mark.slow
def test_five_thousand_against_five_thousand_compares_few_pairs(monkeypatch) -> None:
    import t5x_ext.generation.similarity as module

    compared = 0
    count = module.longest_common_subsequence

    def counting(first, second):
        nonlocal compared
        compared += 1
        return count(first, second)

    monkeypatch.setattr(module, "longest_common_subsequence", counting)
    texts = random_texts(10_000, 1)
    similar = SimilarTexts(texts[:5000])
    near = sum(similar.nearest(text)[0] > 0.7 for text in texts[5000:])
    assert 1500 < near < 4500
    assert compared < 5000 * 5000 / 20


@pytest.mark.parametrize("text", ["", "ab", "[insert a note]", "<abstract>", "N/A", "n/a."])
def test_placeholders_are_dropped_where_an_input_is_required(text: str) -> None:
    assert is_placeholder(text)
    assert TaskFilter().judge("Name the first drug given.", text).reason == "placeholder"
    settings = FilterSettings(require_input=False)
    assert TaskFilter(settings).judge("Name the first drug given.", text).reason is None


def test_a_copied_input_and_a_copied_evaluation_row_are_dropped() -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    row = Row("quiz", "", "e1", "Count.", f"Then {words}.", ("x",))
    filter_ = TaskFilter(seeds=[seed("Say what is here.", "A  red Kite")], evaluation=[row])
    assert filter_.judge("Describe this fine bird.", "a red kite").reason == "seed_input"
    verdict = filter_.judge("Repeat all of the words.", words.upper())
    assert verdict.reason == "evaluation_overlap" and verdict.nearest == "quiz/e1"
    shorter = " ".join(words.split()[:12])
    assert filter_.judge("Repeat all of the words.", shorter).reason is None


def test_blocked_words_are_whole_words_and_a_setting() -> None:
    assert TaskFilter().judge("Describe the gene MAP of yeast.", "text").reason == "word:map"
    assert TaskFilter().judge("Describe the mapping of genes.", "text").reason is None
    allowed = FilterSettings(blocked_words=("plot",))
    assert TaskFilter(allowed).judge("Describe the gene map of yeast.", "text").reason is None


@pytest.mark.parametrize("value", ["plot", ("",), (5,), None])
def test_lists_of_texts_are_neither_one_text_nor_hold_an_empty_one(value: Any) -> None:
    # One text is a list of letters, and an empty text stands in every instruction and answer.
    with pytest.raises(ConfigError, match="FilterSettings.blocked_words: .* none of them empty"):
        FilterSettings(blocked_words=value)
    with pytest.raises(ConfigError, match="ResponseSettings.stops: .* none of them empty"):
        ResponseSettings("harbour", stops=value)


def test_a_field_under_a_wrong_number_ends_an_input() -> None:
    text = " A b c\n4. Input:\nthe text\n1. Output: an answer\n###\n5. Instruction: D\n5. Input:\n"
    pieces = parse_completion(text + "6. Instruction: E\n6. Input:\nmore\n")
    assert [piece.task for piece in pieces] == [("A b c", "the text"), ("D", "")]
    [kept] = parse_completion(" x\n4. Input:\nstep 1. Output: is text\n")
    assert kept.task == ("x", "step 1. Output: is text")
