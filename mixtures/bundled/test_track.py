"""The test-track tasks: new combinations of what the train track teaches, in other categories."""

from __future__ import annotations

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import WORDS
from mixtures.bundled.specs import Item, TaskSpec
from mixtures.bundled.stories import fact, other_word, person, some_kinds, story, two_people
from mixtures.bundled.train_track import cause_and_effect, utterance


def test_track() -> list[TaskSpec]:
    """Returns all test-track tasks, in order."""
    return [
        TaskSpec(
            "animal_and_vehicle_tagging",
            "Keyword Tagging",
            "Give the animal and the vehicle in the story.",
            _animal_and_vehicle,
        ),
        TaskSpec(
            "list_food_tagging",
            "Keyword Tagging",
            "Find the food in the list of words.",
            _food_in_list,
        ),
        TaskSpec(
            "story_entailment",
            "Textual Entailment",
            "Answer 'true' if the story says the last sentence, and 'false' if not.",
            _entailment,
        ),
        TaskSpec(
            "question_answerability",
            "Answerability Classification",
            "If the story answers the question, write 'yes'. If not, write 'no'.",
            _answerability,
        ),
        TaskSpec(
            "pronoun_resolution",
            "Coreference Resolution",
            "Give the name of the person that the pronoun means.",
            _pronoun,
        ),
        TaskSpec(
            "possession_resolution",
            "Coreference Resolution",
            "Give the animal of the person in the last sentence.",
            _pronoun_animal,
        ),
        TaskSpec(
            "question_with_name",
            "Question Rewriting",
            "Write the question with the name of the person.",
            _question_with_name,
        ),
        TaskSpec(
            "record_job_sentence", "Data to Text", "Write a sentence about the job.", _job_sentence
        ),
        TaskSpec(
            "animal_title",
            "Title Generation",
            "Write the name and the animal, with 'and the' between them.",
            _animal_title,
        ),
        TaskSpec(
            "vehicle_title",
            "Title Generation",
            "Write a title in the form: name on the vehicle.",
            _vehicle_title,
        ),
        TaskSpec(
            "kind_analogy",
            "Word Analogy",
            "The second word is the kind of the first. Give the kind of the last word.",
            _analogy,
        ),
        TaskSpec(
            "cause_place_classification",
            "Cause Effect Classification",
            "Write 'good' if the cause is the first part, and 'bad' if it is the last.",
            _cause_place,
        ),
        TaskSpec(
            "dialogue_act",
            "Dialogue Act Recognition",
            "Answer 'question', 'order' or 'statement' for the text.",
            _dialogue_act,
        ),
        TaskSpec(
            "common_word",
            "Overlap Extraction",
            "Which word is in both sentences? Give this word.",
            _common_word,
        ),
        TaskSpec(
            "verb_correction",
            "Grammar Error Correction",
            "Write the sentence with the correct verb.",
            _verb_correction,
        ),
    ]


def _animal_and_vehicle(draw: Draw) -> Item:
    told = story(draw, with_=["animal", "vehicle"])
    animal, vehicle = told.value("animal"), told.value("vehicle")
    why = f"{animal} is the animal and {vehicle} the vehicle."
    return Item(told.text, f"{animal}, {vehicle}", why, animal)


def _food_in_list(draw: Draw) -> Item:
    kinds = draw.mixed(["food", *draw.some([k for k in WORDS if k != "food"], 3)])
    words = {kind: draw.one(WORDS[kind]) for kind in kinds}
    wrong = words[next(kind for kind in kinds if kind != "food")]
    return Item(", ".join(words.values()), words["food"], f"{words['food']} is a food.", wrong)


def _entailment(draw: Draw) -> Item:
    told = story(draw)
    about = draw.one(told.facts)
    subject = told.person.name
    if draw.coin():
        return Item(
            f"{told.text} Sentence: {about.said_of(subject)}", "true", "It is said.", "false"
        )
    changed = about.said_of(subject).replace(about.value, other_word(draw, about.kind, about.value))
    return Item(f"{told.text} Sentence: {changed}", "false", "The story says another.", "true")


def _answerability(draw: Draw) -> Item:
    told = story(draw, 2)
    if draw.coin():
        asked = draw.one(told.facts)
        question = asked.question(told.person.name)
        return Item(f"{told.text} Question: {question}", "yes", f"{asked.value} answers it.", "no")
    kind = some_kinds(draw, 1, without=[f.kind for f in told.facts])[0]
    question = fact(draw, kind).question(told.person.name)
    return Item(f"{told.text} Question: {question}", "no", f"No {kind} is in the story.", "yes")


def _pronoun(draw: Draw) -> Item:
    first, second = two_people(draw)
    meant, other = draw.mixed([first, second])
    a, b = (fact(draw, kind) for kind in some_kinds(draw, 2))
    text = f"{first.name} and {second.name} {a.verb[0]} {a.rest}. {b.said_of(meant.pronoun)}"
    return Item(text, meant.name, f"'{meant.pronoun}' is {meant.name}.", other.name)


def _pronoun_animal(draw: Draw) -> Item:
    first, second = two_people(draw)
    a = fact(draw, "animal")
    b = fact(draw, "animal")
    while b.value == a.value:
        b = fact(draw, "animal")
    told = {first.pronoun: a, second.pronoun: b}
    meant, other = draw.mixed([first.pronoun, second.pronoun])
    third = fact(draw, some_kinds(draw, 1, without=["animal"])[0])
    text = f"{a.said_of(first.name)} {b.said_of(second.name)} {third.said_of(meant)}"
    return Item(text, told[meant].value, f"It is the animal of '{meant}'.", told[other].value)


def _question_with_name(draw: Draw) -> Item:
    one = person(draw)
    said, asked = (fact(draw, kind) for kind in some_kinds(draw, 2))
    return Item(
        f"{said.said_of(one.name)} Question: {asked.question(one.pronoun)}",
        asked.question(one.name),
        f"'{one.pronoun}' is {one.name}.",
        said.question(one.name),
    )


def _job_sentence(draw: Draw) -> Item:
    told = story(draw, with_=["job"])
    about = next(f for f in told.facts if f.kind == "job")
    other = next(f for f in told.facts if f.kind != "job")
    record = "; ".join(f"{f.kind}: {f.clause()}" for f in told.facts)
    name = told.person.name
    return Item(
        f"name: {name}; {record}", about.said_of(name), "It says the job.", other.said_of(name)
    )


def _animal_title(draw: Draw) -> Item:
    told = story(draw, with_=["animal"])
    title = f"{told.person.name} and the {told.value('animal')}"
    return Item(told.text, title, "It has the name and the animal.", told.person.name)


def _vehicle_title(draw: Draw) -> Item:
    told = story(draw, with_=["vehicle"])
    title = f"{told.person.name} on the {told.value('vehicle')}"
    return Item(told.text, title, "It has the name and the vehicle.", told.person.name)


def _analogy(draw: Draw) -> Item:
    a, b = draw.some(list(WORDS), 2)
    text = f"{draw.one(WORDS[a])}: {a}. {draw.one(WORDS[b])}: ?"
    return Item(text, b, f"The last word is a {b}.", a)


def _cause_place(draw: Draw) -> Item:
    text, cause, _, first = cause_and_effect(draw)
    labels = ("good", "bad") if first else ("bad", "good")
    return Item(text, labels[0], f"The cause is '{cause}'.", labels[1])


def _dialogue_act(draw: Draw) -> Item:
    act, wrong = draw.some(("question", "order", "statement"), 2)
    return Item(utterance(draw, act, person(draw).name), act, f"It is a {act}.", wrong)


def _common_word(draw: Draw) -> Item:
    first, second = two_people(draw)
    kind = some_kinds(draw, 1, without=["thing"])[0]
    a, b = fact(draw, kind), fact(draw, kind)
    while b.value != a.value:
        b = fact(draw, kind)
    c, d = (fact(draw, other) for other in some_kinds(draw, 2, without=[kind, "thing"]))
    one = draw.mixed([a, c])
    two = draw.mixed([b, d])
    text = " ".join(
        f"{who.name} {x.clause()} and {y.clause()}."
        for who, (x, y) in ((first, one), (second, two))
    )
    return Item(text, a.value, f"{a.value} is in both.", c.value)


def _verb_correction(draw: Draw) -> Item:
    one, what = person(draw), fact(draw, some_kinds(draw, 1)[0])
    wrong = f"{one.name} {what.verb[0]} {what.rest}."
    return Item(wrong, what.said_of(one.name), f"After a name it is '{what.verb[1]}'.", wrong)
