"""The train-track tasks.

They come in families, and share one stock of skills: to find the word of the kind that the
definition names, to answer with the words that the definition gives for each case, to rewrite a
sentence in one respect. Families over several kinds phrase their definitions in turn in different
ways, so that a kind is met in many sentences.
"""

from __future__ import annotations

from collections.abc import Callable

from mixtures.bundled.draws import Draw
from mixtures.bundled.lexicon import GOOD_MOODS, MEN, WOMEN, WORDS
from mixtures.bundled.specs import Item, TaskSpec
from mixtures.bundled.stories import fact, other_word, person, some_kinds, story, two_people

Make = Callable[[Draw], Item]


def train_track() -> list[TaskSpec]:
    """Returns all train-track tasks, in order."""
    return [
        *_story_extraction(),
        *_pair_extraction(),
        *_list_extraction(),
        *_presence(),
        *_names(),
        *_questions_about_two(),
        *_question_generation(),
        *_question_understanding(),
        *_word_kinds(),
        *_summaries(),
        *_rewriting(),
        *_sentences_from_records(),
        *_completion(),
        *_causes(),
        *_dialogues(),
        *_sentiment(),
        *_lists(),
    ]


def _story_extraction() -> list[TaskSpec]:
    phrasings = (
        "Find the {kind} in the story.",
        "Read the story and give the {kind}.",
        "Which {kind} does the story name? Answer with the {kind}.",
        "Give the {kind} that is in the text.",
        "Answer with the {kind} of the story.",
    )

    def make(kind: str) -> Make:
        def item(draw: Draw) -> Item:
            told = story(draw, with_=[kind])
            word = told.value(kind)
            return Item(told.text, word, f"{word} is the {kind}.", other_word(draw, kind, word))

        return item

    kinds = ("city", "job", "animal", "food", "thing", "colour", "day", "instrument", "mood")
    return [
        TaskSpec(
            f"story_{kind}_extraction",
            "Information Extraction",
            phrasings[i % len(phrasings)].format(kind=kind),
            make(kind),
        )
        for i, kind in enumerate(kinds)
    ]


def _pair_extraction() -> list[TaskSpec]:
    phrasings = (
        "Give the {a} and the {b} in the story.",
        "Read the text. Answer with the {a} and the {b}.",
        "Find the {a} and then the {b} of the story.",
    )

    def make(a: str, b: str) -> Make:
        def item(draw: Draw) -> Item:
            told = story(draw, with_=[a, b])
            first, second = told.value(a), told.value(b)
            return Item(
                told.text, f"{first}, {second}", f"{first} is the {a}, {second} the {b}.", second
            )

        return item

    pairs = (
        ("city", "job"),
        ("vehicle", "food"),
        ("day", "city"),
        ("colour", "animal"),
        ("mood", "instrument"),
        ("job", "vehicle"),
        ("animal", "day"),
        ("food", "mood"),
    )
    return [
        TaskSpec(
            f"story_{a}_and_{b}_extraction",
            "Named Entity Recognition" if a in ("city", "day") else "Information Extraction",
            phrasings[i % len(phrasings)].format(a=a, b=b),
            make(a, b),
        )
        for i, (a, b) in enumerate(pairs)
    ]


def _list_extraction() -> list[TaskSpec]:
    phrasings = (
        "Find the {kind} in the list of words.",
        "Give the word of the list that is a {kind}.",
        "One word of the list is a {kind}. Answer with this word.",
    )

    def make(kind: str) -> Make:
        def item(draw: Draw) -> Item:
            kinds = draw.mixed([kind, *draw.some([k for k in WORDS if k != kind], 3)])
            words = {k: draw.one(WORDS[k]) for k in kinds}
            wrong = words[draw.one([k for k in kinds if k != kind])]
            return Item(
                ", ".join(words.values()), words[kind], f"{words[kind]} is a {kind}.", wrong
            )

        return item

    return [
        TaskSpec(
            f"list_{kind}_extraction",
            "Program Execution",
            phrasings[i % len(phrasings)].format(kind=kind),
            make(kind),
        )
        for i, kind in enumerate(("city", "animal", "vehicle", "colour", "job", "thing"))
    ]


def _presence() -> list[TaskSpec]:
    phrasings = (
        "Answer '{yes}' if the story names a {kind}, and '{no}' if not.",
        "If there is a {kind} in the text, write '{yes}'. If not, write '{no}'.",
        "Write '{no}' if the text has no {kind}, and '{yes}' if it has one.",
    )

    def make(kind: str, yes: str, no: str) -> Make:
        def item(draw: Draw) -> Item:
            if draw.coin():
                told = story(draw, 2, with_=[kind])
                return Item(told.text, yes, f"{told.value(kind)} is a {kind}.", no)
            told = story(draw, 2, without=[kind])
            return Item(told.text, no, f"No word in it is a {kind}.", yes)

        return item

    cases = (
        ("animal", "yes", "no"),
        ("city", "true", "false"),
        ("food", "no", "yes"),
        ("vehicle", "good", "bad"),
        ("job", "false", "true"),
        ("mood", "right", "wrong"),
        ("instrument", "yes", "no"),
        ("day", "bad", "good"),
        ("colour", "wrong", "right"),
        ("thing", "true", "false"),
    )
    return [
        TaskSpec(
            f"story_{kind}_presence_classification",
            "Text Categorization" if i % 2 else "Text Quality Evaluation",
            phrasings[i % len(phrasings)].format(kind=kind, yes=yes, no=no),
            make(kind, yes, no),
        )
        for i, (kind, yes, no) in enumerate(cases)
    ]


def _meeting(draw: Draw, kind: str) -> tuple[str, list[tuple[str, str, str, str]]]:
    """Returns a text about two people with facts of one kind, and (name, pronoun, word, said)."""
    first, second = two_people(draw)
    a = fact(draw, kind)
    b = fact(draw, kind)
    while b.value == a.value:
        b = fact(draw, kind)
    text = f"{a.said_of(first.name)} {b.said_of(second.name)}"
    return text, [
        (first.name, first.pronoun, a.value, a.clause()),
        (second.name, second.pronoun, b.value, b.clause()),
    ]


def _names() -> list[TaskSpec]:
    def by_pronoun(pronoun: str) -> Make:
        def item(draw: Draw) -> Item:
            text, people = _meeting(draw, some_kinds(draw, 1)[0])
            name = next(p[0] for p in people if p[1] == pronoun)
            other = next(p[0] for p in people if p[1] != pronoun)
            return Item(text, name, f"{name} is a name for {pronoun}.", other)

        return item

    def by_place(place: int) -> Make:
        def item(draw: Draw) -> Item:
            text, people = _meeting(draw, some_kinds(draw, 1)[0])
            name, other = people[place][0], people[1 - place][0]
            return Item(text, name, f"{name} is in sentence {place + 1}.", other)

        return item

    def name_and_word(draw: Draw) -> Item:
        told = story(draw, with_=["city"])
        answer = f"{told.person.name}, {told.value('city')}"
        return Item(told.text, answer, f"This is the name and the city: {answer}.", "no")

    category = "Named Entity Recognition"
    return [
        TaskSpec(
            "woman_name", category, "Give the name of the woman in the text.", by_pronoun("she")
        ),
        TaskSpec(
            "man_name", category, "Which person is a man? Answer with the name.", by_pronoun("he")
        ),
        TaskSpec(
            "first_name",
            category,
            "Give the name of the person in the first sentence.",
            by_place(0),
        ),
        TaskSpec(
            "second_name", category, "Answer with the name in the second sentence.", by_place(1)
        ),
        TaskSpec(
            "name_and_city",
            category,
            "Find the name and then the city in the story.",
            name_and_word,
        ),
    ]


def _questions_about_two() -> list[TaskSpec]:
    def which(kind: str) -> Make:
        def item(draw: Draw) -> Item:
            text, people = _meeting(draw, kind)
            (name, _, word, _), (_, _, other, _) = draw.mixed(people)
            return Item(f"{text} Person: {name}", word, f"This is said of {name}.", other)

        return item

    def who(draw: Draw) -> Item:
        text, people = _meeting(draw, some_kinds(draw, 1)[0])
        (name, _, _, clause), (other, _, _, _) = draw.mixed(people)
        return Item(f"{text} Question: Who {clause}?", name, f"{name} {clause}.", other)

    def ask(draw: Draw) -> Item:
        told = story(draw)
        asked = draw.one(told.facts)
        wrong = next(f.value for f in told.facts if f is not asked)
        return Item(
            f"{told.text} Question: {asked.question(told.person.name)}",
            asked.value,
            asked.said_of(told.person.name),
            wrong,
        )

    def agree(draw: Draw) -> Item:
        told = story(draw, 2)
        asked = draw.one(told.facts)
        holds = draw.coin()
        rest = asked.rest
        if not holds:
            rest = rest.replace(asked.value, other_word(draw, asked.kind, asked.value))
        question = f"Does {told.person.name} {asked.verb[0]} {rest}?"
        labels = ("yes", "no") if holds else ("no", "yes")
        return Item(f"{told.text} Question: {question}", labels[0], told.text, labels[1])

    category = "Question Answering"
    return [
        TaskSpec("person_to_animal", category, "Give the animal of this person.", which("animal")),
        TaskSpec(
            "person_to_food",
            category,
            "Which food is for the person? Give the food.",
            which("food"),
        ),
        TaskSpec(
            "person_to_vehicle",
            category,
            "Answer with the vehicle of the person.",
            which("vehicle"),
        ),
        TaskSpec("who_question", category, "Answer the question with the name of the person.", who),
        TaskSpec(
            "story_question", category, "Read the story and answer the question with one word.", ask
        ),
        TaskSpec("yes_no_question", category, "Answer the question with 'yes' or 'no'.", agree),
    ]


def _question_generation() -> list[TaskSpec]:
    def make(kind: str) -> Make:
        def item(draw: Draw) -> Item:
            told = story(draw, with_=[kind])
            about = next(f for f in told.facts if kind in f.values)
            other = next(f for f in told.facts if f is not about)
            name = told.person.name
            return Item(
                told.text,
                about.question(name),
                f"The answer is {about.value}.",
                other.question(name),
            )

        return item

    phrasings = ("Write a question about the {}.", "Ask a question that the {} answers.")
    return [
        TaskSpec(
            f"{kind}_question_generation",
            "Question Generation",
            phrasings[i % 2].format(kind),
            make(kind),
        )
        for i, kind in enumerate(("city", "animal", "vehicle", "food"))
    ]


def _question_understanding() -> list[TaskSpec]:
    def kind_asked(draw: Draw) -> Item:
        asked = fact(draw, some_kinds(draw, 1)[0])
        name = person(draw).name
        wrong = draw.one([kind for kind in WORDS if kind != asked.kind])
        return Item(asked.question(name), asked.kind, f"The answer is a {asked.kind}.", wrong)

    def person_asked(draw: Draw) -> Item:
        asked = fact(draw, some_kinds(draw, 1)[0])
        one = person(draw)
        return Item(asked.question(one.name), one.name, f"It asks about {one.name}.", asked.kind)

    category = "Question Understanding"
    return [
        TaskSpec("question_kind", category, "Which kind of word answers the question?", kind_asked),
        TaskSpec("question_person", category, "Give the name in the question.", person_asked),
    ]


def _word_kinds() -> list[TaskSpec]:
    def both(draw: Draw) -> Item:
        a, b = draw.some(list(WORDS), 2)
        words = f"{draw.one(WORDS[a])}, {draw.one(WORDS[b])}"
        return Item(words, f"{a}, {b}", f"The first is a {a}, the second a {b}.", f"{b}, {a}")

    def last(draw: Draw) -> Item:
        a, b = draw.some(list(WORDS), 2)
        words = f"{draw.one(WORDS[a])}, {draw.one(WORDS[b])}"
        return Item(words, b, f"The last word is a {b}.", a)

    def same(yes: str, no: str) -> Make:
        def item(draw: Draw) -> Item:
            a, b = draw.some(list(WORDS), 2)
            first = draw.one(WORDS[a])
            if draw.coin():
                return Item(f"{first}, {other_word(draw, a, first)}", yes, f"Both are a {a}.", no)
            return Item(f"{first}, {draw.one(WORDS[b])}", no, f"One is a {a}, one a {b}.", yes)

        return item

    category = "Word Semantics"
    return [
        TaskSpec(
            "kinds_of_two_words", category, "Give the kind of the first and the second word.", both
        ),
        TaskSpec("kind_of_last_word", category, "Give the kind of the last word.", last),
        TaskSpec(
            "same_kind",
            category,
            "Write 'yes' if both words are of the same kind, and 'no' if not.",
            same("yes", "no"),
        ),
        TaskSpec(
            "other_kind",
            category,
            "If the words are of the same kind, write 'false'. If not, write 'true'.",
            same("false", "true"),
        ),
    ]


def _summaries() -> list[TaskSpec]:
    def make(form: str, *kinds: str) -> Make:
        def item(draw: Draw) -> Item:
            told = story(draw, with_=kinds)
            words = {kind: told.value(kind) for kind in kinds}
            return Item(
                told.text,
                form.format(name=told.person.name, **words),
                "It is short and has the form that is asked for.",
                told.facts[-1].said_of(told.person.name),
            )

        return item

    category = "Summarization"
    return [
        TaskSpec(
            "name_in_city",
            category,
            "Sum up the story in the form: name in city.",
            make("{name} in {city}", "city"),
        ),
        TaskSpec(
            "name_on_day",
            category,
            "Write the name and the day, with 'on' between them.",
            make("{name} on {day}", "day"),
        ),
        TaskSpec(
            "name_and_job",
            category,
            "Sum up the text in the form: name the job.",
            make("{name} the {job}", "job"),
        ),
        TaskSpec(
            "name_and_food",
            category,
            "Write the name and the food, with 'and the' between them.",
            make("{name} and the {food}", "food"),
        ),
        TaskSpec(
            "colour_and_thing",
            category,
            "Write 'the', then the colour, then the thing.",
            make("the {colour} {thing}", "colour", "thing"),
        ),
        TaskSpec(
            "name_with_instrument",
            category,
            "Sum up the story in the form: name with the instrument.",
            make("{name} with the {instrument}", "instrument"),
        ),
    ]


def _rewriting() -> list[TaskSpec]:
    def with_name(draw: Draw) -> Item:
        told = story(draw, 2)
        second = told.facts[1]
        return Item(
            told.text,
            second.said_of(told.person.name),
            f"'{told.person.pronoun}' is {told.person.name}.",
            second.said_of(told.person.pronoun),
        )

    def with_pronoun(draw: Draw) -> Item:
        one, what = person(draw), fact(draw, some_kinds(draw, 1)[0])
        wrong = "he" if one.pronoun == "she" else "she"
        return Item(
            what.said_of(one.name),
            what.said_of(one.pronoun),
            f"{one.name} is '{one.pronoun}'.",
            what.said_of(wrong),
        )

    def past(draw: Draw) -> Item:
        one, what = person(draw), fact(draw, some_kinds(draw, 1)[0])
        return Item(
            what.said_of(one.name),
            f"{one.name} {what.verb[2]} {what.rest}.",
            f"The past of '{what.verb[1]}' is '{what.verb[2]}'.",
            what.said_of(one.name),
        )

    def negated(draw: Draw) -> Item:
        one, what = person(draw), fact(draw, some_kinds(draw, 1)[0])
        return Item(
            what.said_of(one.name),
            f"{one.name} does not {what.verb[0]} {what.rest}.",
            "It says the opposite.",
            f"{one.name} not {what.clause()}.",
        )

    def other_name(draw: Draw) -> Item:
        one, what = person(draw), fact(draw, some_kinds(draw, 1)[0])
        name = other_word_of_names(draw, one.name)
        return Item(
            f"{what.said_of(one.name)} Name: {name}",
            what.said_of(name),
            f"{name} is in the place of {one.name}.",
            what.said_of(one.name),
        )

    def sentence(place: int) -> Make:
        def item(draw: Draw) -> Item:
            told = story(draw, 2)
            said = told.text.split(". ")
            keep, drop = said[place].rstrip("."), said[1 - place].rstrip(".")
            return Item(told.text, f"{keep}.", f"This is sentence {place + 1}.", f"{drop}.")

        return item

    def corrected_order(draw: Draw) -> Item:
        one, what = person(draw), fact(draw, some_kinds(draw, 1)[0])
        return Item(
            f"{what.clause()} {one.name}",
            what.said_of(one.name),
            "The name comes first.",
            f"{what.clause()} {one.name}.",
        )

    return [
        TaskSpec(
            "pronoun_to_name",
            "Text Simplification",
            "Write the second sentence with the name of the person.",
            with_name,
        ),
        TaskSpec(
            "name_to_pronoun",
            "Style Transfer",
            "Write the sentence with 'he' or 'she' and not the name.",
            with_pronoun,
        ),
        TaskSpec("past_sentence", "Style Transfer", "Write the sentence in the past.", past),
        TaskSpec(
            "negated_sentence",
            "Sentence Perturbation",
            "Write the sentence with 'does not'.",
            negated,
        ),
        TaskSpec(
            "other_name_sentence",
            "Sentence Perturbation",
            "Write the sentence with the other name.",
            other_name,
        ),
        TaskSpec(
            "first_sentence",
            "Sentence Compression",
            "Give the first sentence of the text.",
            sentence(0),
        ),
        TaskSpec(
            "second_sentence",
            "Sentence Compression",
            "Write the second sentence of the text.",
            sentence(1),
        ),
        TaskSpec(
            "word_order",
            "Sentence Ordering",
            "Write the words in the correct order, with the name first.",
            corrected_order,
        ),
    ]


def other_word_of_names(draw: Draw, name: str) -> str:
    """Returns another name of the same pronoun."""
    names = WOMEN if name in WOMEN else MEN
    return draw.one([other for other in names if other != name])


def _sentences_from_records() -> list[TaskSpec]:
    def make(kind: str) -> Make:
        def item(draw: Draw) -> Item:
            told = story(draw, with_=[kind])
            about = next(f for f in told.facts if kind in f.values)
            other = next(f for f in told.facts if f is not about)
            record = "; ".join(f"{f.kind}: {f.verb[1]} {f.rest}" for f in told.facts)
            return Item(
                f"name: {told.person.name}; {record}",
                about.said_of(told.person.name),
                f"It says the {kind} of {told.person.name}.",
                other.said_of(told.person.name),
            )

        return item

    phrasings = ("Write a sentence about the {}.", "Write a sentence with the name and the {}.")
    return [
        TaskSpec(
            f"record_{kind}_sentence",
            "Sentence Composition",
            phrasings[i % 2].format(kind),
            make(kind),
        )
        for i, kind in enumerate(("city", "food", "vehicle", "mood"))
    ]


def _completion() -> list[TaskSpec]:
    def verb(draw: Draw) -> Item:
        one, what = person(draw), fact(draw, some_kinds(draw, 1)[0])
        wrong = fact(draw, draw.one([k for k in ("mood", "job", "day") if k != what.kind]))
        return Item(
            f"{one.name} _ {what.rest}.", what.verb[1], what.said_of(one.name), wrong.verb[1]
        )

    def filled(draw: Draw) -> Item:
        one, what = person(draw), fact(draw, some_kinds(draw, 1)[0])
        return Item(
            f"{one.name} _ {what.rest}. Verb: {what.verb[0]}",
            what.said_of(one.name),
            f"After a name '{what.verb[0]}' is '{what.verb[1]}'.",
            f"{one.name} {what.verb[0]} {what.rest}.",
        )

    return [
        TaskSpec("missing_verb", "Fill in The Blank", "Give the verb that is missing.", verb),
        TaskSpec(
            "sentence_with_verb",
            "Text Completion",
            "Write the correct sentence with the verb.",
            filled,
        ),
    ]


def cause_and_effect(draw: Draw) -> tuple[str, str, str, bool]:
    """Returns a sentence, its cause, its effect, and whether the cause comes first."""
    one = person(draw)
    cause = fact(draw, draw.one(("thing", "animal", "food", "vehicle", "instrument")))
    effect = fact(draw, "mood")
    if draw.coin():
        text = f"{one.name} {cause.clause()}, so {one.pronoun} {effect.clause()}."
        return text, cause.clause(), effect.clause(), True
    text = f"{one.name} {effect.clause()} because {one.pronoun} {cause.clause()}."
    return text, cause.clause(), effect.clause(), False


def _causes() -> list[TaskSpec]:
    def cause_part(draw: Draw) -> Item:
        text, cause, effect, _ = cause_and_effect(draw)
        return Item(text, cause, "This is the cause.", effect)

    def effect_part(draw: Draw) -> Item:
        text, cause, effect, _ = cause_and_effect(draw)
        return Item(text, effect, "This is the effect.", cause)

    def link(draw: Draw) -> Item:
        text, _, _, first = cause_and_effect(draw)
        labels = ("right", "wrong") if first else ("wrong", "right")
        return Item(text, labels[0], "'so' has the cause before it.", labels[1])

    return [
        TaskSpec(
            "cause_extraction",
            "Information Extraction",
            "Give the part of the sentence that is the cause.",
            cause_part,
        ),
        TaskSpec(
            "effect_extraction",
            "Information Extraction",
            "Which part of the sentence is the effect? Write this part.",
            effect_part,
        ),
        TaskSpec(
            "link_classification",
            "Text Categorization",
            "Write 'right' if the sentence has 'so', and 'wrong' if it has 'because'.",
            link,
        ),
    ]


def utterance(draw: Draw, act: str, other: str) -> str:
    """Returns what somebody says to another person: a question, an order or a statement."""
    what = fact(draw, draw.one(("city", "animal", "food", "thing", "instrument", "vehicle")))
    if act == "question":
        return f"{other}, {what.question('you')[0].lower()}{what.question('you')[1:]}".replace(
            "does you", "do you"
        )
    if act == "order":
        return f"{other}, {what.verb[0]} {what.rest} now!"
    return f"{other}, I {what.verb[0]} {what.rest}."


def _dialogues() -> list[TaskSpec]:
    def dialogue(draw: Draw) -> tuple[str, str, str]:
        first, second = two_people(draw)
        asker, teller = draw.mixed([first.name, second.name])
        asks = f"{asker}: {utterance(draw, 'question', teller)}"
        says = f"{teller}: {utterance(draw, 'statement', asker)}"
        turns = draw.mixed([asks, says])
        return " ".join(turns), asker, teller

    def who_asks(draw: Draw) -> Item:
        text, asker, teller = dialogue(draw)
        return Item(text, asker, f"{asker} asks a question.", teller)

    def who_tells(draw: Draw) -> Item:
        text, asker, teller = dialogue(draw)
        return Item(text, teller, f"{teller} asks no question.", asker)

    def is_act(act: str, yes: str, no: str) -> Make:
        def item(draw: Draw) -> Item:
            one = person(draw).name
            said = draw.one([a for a in ("question", "order", "statement") if a != act])
            if draw.coin():
                return Item(utterance(draw, act, one), yes, f"It is a {act}.", no)
            return Item(utterance(draw, said, one), no, f"It is a {said}.", yes)

        return item

    return [
        TaskSpec(
            "who_asks",
            "Speaker Identification",
            "Give the name of the person who asks a question.",
            who_asks,
        ),
        TaskSpec(
            "who_tells",
            "Speaker Identification",
            "Which person asks no question? Answer with the name.",
            who_tells,
        ),
        TaskSpec(
            "is_question",
            "Intent Identification",
            "Answer 'true' if the text is a question, and 'false' if not.",
            is_act("question", "true", "false"),
        ),
        TaskSpec(
            "is_order",
            "Intent Identification",
            "If the text is an order, write 'good'. If not, write 'bad'.",
            is_act("order", "good", "bad"),
        ),
    ]


def _sentiment() -> list[TaskSpec]:
    def make(good: str, bad: str) -> Make:
        def item(draw: Draw) -> Item:
            told = story(draw, 2, with_=["mood"])
            mood = told.value("mood")
            labels = (good, bad) if mood in GOOD_MOODS else (bad, good)
            return Item(told.text, labels[0], f"'{mood}' decides it.", labels[1])

        return item

    return [
        TaskSpec(
            "mood_polarity",
            "Sentiment Analysis",
            "Answer 'good' if the mood is good, and 'bad' if it is bad.",
            make("good", "bad"),
        ),
        TaskSpec(
            "mood_polarity_yes_no",
            "Sentiment Analysis",
            "If the mood is bad, write 'yes'. If not, write 'no'.",
            make("no", "yes"),
        ),
    ]


def _lists() -> list[TaskSpec]:
    def words(draw: Draw) -> list[str]:
        return [draw.one(WORDS[kind]) for kind in draw.some(list(WORDS), 4)]

    def at(place: int) -> Make:
        def item(draw: Draw) -> Item:
            listed = words(draw)
            wrong = listed[place - 1] if place else listed[1]
            return Item(", ".join(listed), listed[place], "It is in this place.", wrong)

        return item

    def twice(draw: Draw) -> Item:
        listed = words(draw)
        again = draw.one(listed[:2])
        text = ", ".join([*listed, again] if draw.coin() else [again, *listed])
        if text.startswith(f"{again}, {again}"):
            text = ", ".join([*listed, again])
        return Item(text, again, f"{again} is in the list twice.", listed[2])

    category = "Program Execution"
    return [
        TaskSpec("first_word", category, "Give the first word of the list.", at(0)),
        TaskSpec("last_word", category, "Write the last word of the list.", at(-1)),
        TaskSpec("word_twice", category, "Which word is in the list twice? Give this word.", twice),
    ]
