"""The test-track tasks: new combinations of what the train track teaches, in other categories."""

from __future__ import annotations

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import WORDS
from mixtures.bundled.specs import Item, TaskSpec
from mixtures.bundled.stories import fact, some_kinds, story, two_people
from mixtures.bundled.train.composition import sentence_from_record, summary
from mixtures.bundled.train.extraction import two_words
from mixtures.bundled.train.judging import is_act, kind_of_cause, presence_of
from mixtures.bundled.train.rewriting import in_the_past, sentence_about, with_name


def test_track() -> list[TaskSpec]:
    """Returns all test-track tasks, in order."""
    return [
        TaskSpec(
            "animal_and_vehicle_tagging",
            "Keyword Tagging",
            "Find the animal and the vehicle in the text.",
            two_words("animal", "vehicle"),
        ),
        TaskSpec(
            "animal_entailment",
            "Textual Entailment",
            "Write 'true' if the person has an animal, and 'false' if not.",
            presence_of("animal", "true", "false"),
        ),
        TaskSpec(
            "vehicle_contradiction",
            "Textual Entailment",
            "If the text has a vehicle, write 'wrong'. If not, write 'right'.",
            presence_of("vehicle", "wrong", "right"),
        ),
        TaskSpec(
            "job_answerability",
            "Answerability Classification",
            "Answer 'yes' if the text says a job, and 'no' if not.",
            presence_of("job", "yes", "no"),
        ),
        TaskSpec(
            "pronoun_resolution",
            "Coreference Resolution",
            "Give the name of the person that the pronoun means.",
            _pronoun,
        ),
        TaskSpec(
            "pronoun_replacement",
            "Coreference Resolution",
            "Write the sentence about the animal with the name.",
            sentence_about("animal", with_name),
        ),
        TaskSpec(
            "question_choice_with_name",
            "Question Rewriting",
            "Write the question about the mood with the name.",
            _question_about_mood,
        ),
        TaskSpec(
            "record_job_sentence",
            "Data to Text",
            "Write a sentence about the job.",
            sentence_from_record("job"),
        ),
        TaskSpec(
            "record_past_food_sentence",
            "Data to Text",
            "Write a sentence about the food in the past.",
            sentence_from_record("food", in_the_past),
        ),
        TaskSpec(
            "animal_title",
            "Title Generation",
            "Write the name and the animal, with 'and the' between them.",
            summary("animal", "and the"),
        ),
        TaskSpec(
            "vehicle_title",
            "Title Generation",
            "Write the name, then 'with the', then the vehicle.",
            summary("vehicle", "with the"),
        ),
        TaskSpec(
            "food_analogy",
            "Word Analogy",
            "Which word of the list is to 'food' as 'red' is to 'colour'? Give this word.",
            _analogy,
        ),
        TaskSpec(
            "animal_cause_classification",
            "Cause Effect Classification",
            "Write 'yes' if the cause has an animal, and 'no' if not.",
            kind_of_cause("animal", "yes", "no"),
        ),
        TaskSpec(
            "question_act_classification",
            "Dialogue Act Recognition",
            "Answer 'right' if the text is a question, and 'wrong' if not.",
            is_act("question", "right", "wrong"),
        ),
        TaskSpec(
            "common_food",
            "Overlap Extraction",
            "Give the food that is in both sentences.",
            _common_food,
        ),
        TaskSpec(
            "verb_correction",
            "Grammar Error Correction",
            "Write the correct sentence about the city with the name.",
            _verb_correction,
        ),
    ]


def _pronoun(draw: Draw) -> Item:
    people = two_people(draw)
    meant, other = draw.mixed(people)
    shared, own = fact(draw), fact(draw)
    names = " and ".join(who.name for who in people)
    text = f"{names} {shared.verb[0]} {shared.rest}. {own.said_of(meant.pronoun)}"
    return Item(text, meant.name, f"'{meant.pronoun}' is {meant.name}.", other.name)


def _question_about_mood(draw: Draw) -> Item:
    told = story(draw, 2, without=["mood"])
    mood, other = fact(draw, "mood"), told.facts[1]
    name, pronoun = told.person.name, told.person.pronoun
    asked = " ".join(each.question(pronoun) for each in draw.mixed([mood, other]))
    text = f"{told.facts[0].said_of(name)} {asked}"
    return Item(text, mood.question(name), f"'{pronoun}' is {name}.", other.question(name))


def _analogy(draw: Draw) -> Item:
    others = draw.some([kind for kind in WORDS if kind not in ("food", "colour")], 3)
    words = {kind: draw.one(WORDS[kind]) for kind in draw.mixed(["food", *others])}
    food = words["food"]
    return Item(", ".join(words.values()), food, f"{food} is a food.", words[others[0]])


def _common_food(draw: Draw) -> Item:
    shared = fact(draw, "food")
    others = [fact(draw, kind) for kind in some_kinds(draw, 2, without=["food", "thing"])]
    said = []
    for who, other in zip(two_people(draw), others, strict=True):
        one, two = draw.mixed([shared, other])
        said.append(f"{who.name} {one.clause()} and {two.clause()}.")
    return Item(" ".join(said), shared.value, f"{shared.value} is in both.", others[0].value)


def _verb_correction(draw: Draw) -> Item:
    told = story(draw, with_=["city"])
    name, pronoun, about = told.person.name, told.person.pronoun, told.about("city")
    subjects = [name, *[pronoun.capitalize()] * (len(told.facts) - 1)]
    said = [f"{s} {f.verb[0]} {f.rest}." for s, f in zip(subjects, told.facts, strict=True)]
    why = f"After a name '{about.verb[0]}' is '{about.verb[1]}'."
    return Item(" ".join(said), about.said_of(name), why, f"{name} {about.verb[0]} {about.rest}.")
