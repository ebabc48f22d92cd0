"""Exact match under Tk-Instruct's normalisation."""

from __future__ import annotations

from t5x_ext.metrics import exact_match


def test_case_punctuation_and_white_space_are_folded():
    assert exact_match.normalise(" The U.S.A.,  again ") == "the usa again"
    assert exact_match.score("YES.\n", ["yes"]) == 1.0


def test_articles_count():
    assert exact_match.score("the cat", ["cat"]) == 0.0


def test_any_reference_will_do():
    assert exact_match.score("b", ["a", "B!"]) == 1.0
    assert exact_match.score("c", ["a", "b"]) == 0.0


def test_punctuation_outside_ascii_is_text():
    assert exact_match.normalise("an apple’s – core") == "an apple’s – core"
