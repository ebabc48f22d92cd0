"""Answers are tokenised as the source was, so that copying proposes no edit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixtures.writing.tokens import detokenize, retokenize, tokenize

SOURCE = "He ca n't  swim , but he can not  sink ."


def test_what_was_copied_has_the_tokens_of_the_source() -> None:
    assert detokenize(SOURCE) == "He can't swim, but he cannot sink."
    assert retokenize("He can't swim, but he cannot sink.", SOURCE).split() == SOURCE.split()
    assert (
        retokenize("He can't swim, and he cannot dive.", SOURCE)
        == "He ca n't swim , and he can not dive ."
    )


@pytest.mark.parametrize(
    ("source", "answer", "tokens"),
    [
        # A word that is not a token of the source is the tokeniser's: it cuts n't off.
        ("they donot know .", "They don't know.", "They do n't know ."),
        ("he can go .", "He can't go.", "He ca n't go ."),
        # A changed sentence in the middle ends as a sentence does.
        ("It is good . I like it .", "It is nice. I like it.", "It is nice . I like it ."),
        ("It costs 3 .", "It costs 3.5 in St. Ives.", "It costs 3.5 in St. Ives ."),
        # The source's signs for quotes and brackets, and its odd tokens.
        ("a `` b '' man -LRB- Bo -RRB- .", 'a "b" man (Bo)!', "a `` b '' man -LRB- Bo -RRB- !"),
        ("in etc.this way .", "In etc.this way.", "In etc.this way ."),
        ("twenty - five men .", "twenty - five women.", "twenty - five women ."),
        ("One .", "", ""),
        ("", "Two words.", "Two words ."),
        # Spaces of the answer always separate; line breaks and tabs are spaces.
        ("alot of it .", "a lot\nof\tit .", "a lot of it ."),
    ],
)
def test_the_source_decides_where_it_was_kept(source: str, answer: str, tokens: str) -> None:
    assert retokenize(answer, source) == tokens


def test_tokenising_twice_changes_nothing() -> None:
    once = retokenize('He couldn\'t swim. He said: "I cannot!"', SOURCE)
    assert once == 'He could n\'t swim . He said : " I can not ! "'
    assert retokenize(once, SOURCE) == once


def test_no_character_of_the_answer_is_lost() -> None:
    answer = "«Zoë»… won''t — can't; \"A.B.C.\" (50%) http://x.y/z?q=1, 猫 😀 won´t."
    assert tokenize(answer).replace(" ", "") == answer.replace(" ", "")
    assert retokenize(answer, SOURCE).replace(" ", "") == answer.replace(" ", "")


@pytest.mark.parametrize(
    ("name", "plain"),
    # Sentences that the tokeniser alone does not give back: why the source is asked.
    [("jfleg.test", 8), ("jfleg.dev", 16), ("turkcorpus.test", 2)],
)
def test_copying_every_real_source_gives_its_tokens_back(
    writing_dir: Path, name: str, plain: int
) -> None:
    lines = (writing_dir / "data" / f"{name}.jsonl").read_text("utf-8").split("\n")
    sources = [json.loads(line)["input"] for line in lines if line]
    answers = [detokenize(source) for source in sources]
    for source, answer in zip(sources, answers, strict=True):
        assert retokenize(answer, source).split() == source.split()
    lost = [s for s, a in zip(sources, answers, strict=True) if tokenize(a).split() != s.split()]
    assert len(lost) == plain
