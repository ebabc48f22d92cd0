"""Answer with the label that the definition gives for what the text says or is."""

from __future__ import annotations

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import GOOD_MOODS
from mixtures.bundled.specs import Item, Make, TaskSpec
from mixtures.bundled.stories import ACTS, a, cause_and_effect, person, story, utterance

# A kind, the label of a text that has a word of this kind, and the label of the other texts.
PRESENCE = (
    ("animal", "yes", "no"),
    ("city", "true", "false"),
    ("food", "no", "yes"),
    ("vehicle", "good", "bad"),
    ("job", "false", "true"),
    ("mood", "right", "wrong"),
    ("instrument", "yes", "no"),
    ("day", "bad", "good"),
    ("thing", "wrong", "right"),
    ("city", "no", "yes"),
    ("animal", "right", "wrong"),
    ("vehicle", "true", "false"),
    ("food", "true", "false"),
    ("mood", "yes", "no"),
    ("instrument", "false", "true"),
    ("job", "good", "bad"),
    ("thing", "yes", "no"),
    ("day", "true", "false"),
)
PRESENCE_PHRASINGS = (
    "Answer '{yes}' if the text says {a_kind}, and '{no}' if not.",
    "If the text has {a_kind}, write '{yes}'. If not, write '{no}'.",
    "Write '{yes}' if the person has {a_kind}, and '{no}' if not.",
    "Write '{no}' if the text has no {kind}, and '{yes}' if it has one.",
)
CAUSES = (
    ("food", "yes", "no"),
    ("vehicle", "bad", "good"),
    ("instrument", "true", "false"),
    ("animal", "good", "bad"),
    ("thing", "true", "false"),
)
ACT_LABELS = (
    ("question", "true", "false"),
    ("order", "good", "bad"),
    ("statement", "yes", "no"),
    ("question", "no", "yes"),
    ("order", "right", "wrong"),
    ("statement", "wrong", "right"),
)
ACT_PHRASINGS = (
    "Answer '{yes}' if the text is {a_act}, and '{no}' if not.",
    "If the text is {a_act}, write '{yes}'. If not, write '{no}'.",
)


def tasks() -> list[TaskSpec]:
    """Returns the tasks of this module."""
    presence = [
        TaskSpec(
            f"{kind}_presence_{yes}_{no}",
            "Text Categorization",
            phrasing.format(kind=kind, a_kind=a(kind), yes=yes, no=no),
            presence_of(kind, yes, no),
        )
        for (kind, yes, no), phrasing in zip(PRESENCE, PRESENCE_PHRASINGS * 5, strict=False)
    ]
    causes = [
        TaskSpec(
            f"{kind}_as_cause",
            "Text Quality Evaluation",
            f"Write '{yes}' if the cause has {a(kind)}, and '{no}' if not.",
            kind_of_cause(kind, yes, no),
        )
        for kind, yes, no in CAUSES
    ]
    acts = [
        TaskSpec(
            f"is_{act}_{yes}_{no}",
            "Intent Identification",
            phrasing.format(a_act=a(act), yes=yes, no=no),
            is_act(act, yes, no),
        )
        for (act, yes, no), phrasing in zip(ACT_LABELS, ACT_PHRASINGS * 3, strict=True)
    ]
    return [
        *presence,
        *causes,
        TaskSpec(
            "cause_first",
            "Text Quality Evaluation",
            "Write 'right' if the cause is the first part, and 'wrong' if it is the last.",
            _cause_first,
        ),
        *acts,
        TaskSpec(
            "good_mood",
            "Sentiment Analysis",
            "Answer 'good' if the mood is good, and 'bad' if it is bad.",
            _polarity("good", "bad"),
        ),
        TaskSpec(
            "bad_mood",
            "Sentiment Analysis",
            "If the mood is bad, write 'yes'. If not, write 'no'.",
            _polarity("no", "yes"),
        ),
    ]


def presence_of(kind: str, yes: str, no: str) -> Make:
    """Draws stories that have a word of the kind, or have none."""

    def make(draw: Draw) -> Item:
        if draw.coin():
            told = story(draw, with_=[kind])
            return Item(told.text, yes, f"{told.value(kind)} is {a(kind)}.", no)
        return Item(story(draw, without=[kind]).text, no, f"No word is {a(kind)}.", yes)

    return make


def kind_of_cause(kind: str, yes: str, no: str) -> Make:
    """Draws sentences whose cause has a word of the kind, or has none."""

    def make(draw: Draw) -> Item:
        if draw.coin():
            told = cause_and_effect(draw, kind)
            return Item(told.text, yes, f"{told.cause.value} is {a(kind)}.", no)
        told = cause_and_effect(draw, without=kind)
        return Item(told.text, no, f"{told.cause.value} is {a(told.cause.kind)}.", yes)

    return make


def is_act(act: str, yes: str, no: str) -> Make:
    """Draws utterances that are questions, orders or statements."""

    def make(draw: Draw) -> Item:
        to = person(draw).name
        if draw.coin():
            return Item(utterance(draw, act, to), yes, f"It is {a(act)}.", no)
        other = draw.one([which for which in ACTS if which != act])
        return Item(utterance(draw, other, to), no, f"It is {a(other)}.", yes)

    return make


def _cause_first(draw: Draw) -> Item:
    told = cause_and_effect(draw)
    if told.cause_first:
        return Item(told.text, "right", "The cause is before 'so'.", "wrong")
    return Item(told.text, "wrong", "The cause is after 'because'.", "right")


def _polarity(good: str, bad: str) -> Make:
    def make(draw: Draw) -> Item:
        told = story(draw, with_=["mood"])
        mood = told.value("mood")
        label, other = (good, bad) if mood in GOOD_MOODS else (bad, good)
        return Item(told.text, label, f"To be {mood} decides it.", other)

    return make
