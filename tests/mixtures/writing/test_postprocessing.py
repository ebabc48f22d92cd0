"""What a model wrote becomes the answer that is scored, and every change is counted."""

from __future__ import annotations

import pytest

from mixtures.writing.postprocessing import clean_answer, clean_answers


@pytest.mark.parametrize(
    ("text", "source", "answer", "steps"),
    [
        ("A cat.", "A cats.", "A cat.", ()),
        (" A cat.\n", "A cats.", "A cat.", ("space",)),
        ("A cat.\n\n### Input:\nmore", "A cats.", "A cat.", ("heading",)),
        ("A cat. ### Instruction: more", "A cats.", "A cat.", ("heading", "space")),
        ("A cat.\n\nA dog.", "A cats.", "A cat. A dog.", ("lines",)),
        ("A cat.\r\nA dog.\u2028So.", "A cats.", "A cat. A dog. So.", ("lines",)),
        ('"A cat."', "A cats.", "A cat.", ("quotes",)),
        ("“A cat.”", "A cats.", "A cat.", ("quotes",)),
        ('"Go home."', "`` Go home ''", '"Go home."', ()),
        ("'It's a cat.'", "It's a cats.", "It's a cat.", ("quotes",)),
        # Quotes of the input stay, and so do two pairs.
        ('"A cat."', '"A cats."', '"A cat."', ()),
        ('"A" and "B"', "A and B", '"A" and "B"', ()),
        ("'A' and 'B'", "A and B", "'A' and 'B'", ()),
        ("'A cat'", "'A cats'", "'A cat'", ()),
        # A heading inside of an answer is not the end, and nothing is invented for an empty one.
        ("### Response: A cat.", "A cats.", "### Response: A cat.", ()),
        ("\n\n### Instruction:\nmore", "A cats.", "", ("heading",)),
        ("", "A cats.", "", ()),
        ('"', "A cats.", '"', ()),
    ],
)
def test_each_step_changes_what_it_is_for(
    text: str, source: str, answer: str, steps: tuple[str, ...]
) -> None:
    assert clean_answer(text, source) == (answer, steps)


def test_steps_are_counted_over_a_set() -> None:
    texts = [" A.", "B.", '"C."', "\n\n### Input:"]
    cleaned, counts = clean_answers(texts, ["", "", "", ""])
    assert cleaned == ["A.", "B.", "C.", ""]
    assert counts == {"heading": 1, "space": 1, "lines": 0, "quotes": 1, "empty": 1}


def test_cleaning_twice_changes_nothing() -> None:
    once = clean_answer(' "A cat."\n\n### Input', "A cats.").text
    assert clean_answer(once, "A cats.") == (once, ())
