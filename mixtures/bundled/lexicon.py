"""The words of the suite, and the clauses and questions made of them.

A *kind* is a class of words ('city'); a *clause* is what a story says about a person with a word of
that kind ('lives in Oslo'). The 'thing' clause carries a second kind, 'colour'.
"""

from __future__ import annotations

WOMEN = ("Ann", "Eva", "Mia", "Zoe", "Lily", "Emma", "Nora", "Ruth", "Clara", "Ida")
MEN = ("Tom", "Ben", "Max", "Leo", "Sam", "Paul", "Hugo", "Karl", "Otto", "Finn")

WORDS: dict[str, tuple[str, ...]] = {
    "city": (
        "Rome",
        "Oslo",
        "Paris",
        "Lima",
        "Cairo",
        "Delhi",
        "Berlin",
        "Tokyo",
        "Madrid",
        "Dublin",
    ),
    "job": (
        "baker",
        "pilot",
        "nurse",
        "farmer",
        "teacher",
        "painter",
        "driver",
        "singer",
        "doctor",
        "sailor",
    ),
    "animal": (
        "cat",
        "dog",
        "horse",
        "goat",
        "rabbit",
        "parrot",
        "turtle",
        "donkey",
        "hamster",
        "duck",
    ),
    "food": ("bread", "soup", "rice", "cheese", "cake", "salad", "pasta", "honey", "jam", "pizza"),
    "thing": ("kite", "cup", "lamp", "hat", "book", "chair", "box", "clock", "spoon", "coat"),
    "colour": (
        "red",
        "blue",
        "green",
        "black",
        "white",
        "brown",
        "yellow",
        "pink",
        "grey",
        "purple",
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "instrument": ("violin", "piano", "drum", "flute", "guitar", "harp", "trumpet", "cello"),
    "vehicle": ("bus", "train", "bike", "boat", "car", "truck", "taxi", "tram"),
    "mood": ("happy", "glad", "proud", "calm", "sad", "angry", "upset", "lonely"),
}

GOOD_MOODS = ("happy", "glad", "proud", "calm")

# The kinds that have their own clause; a colour comes with a thing.
CLAUSE_KINDS = tuple(kind for kind in WORDS if kind != "colour")

# kind -> (verb in the base form, verb with he or she, verb in the past, rest of the clause)
CLAUSES: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "city": (("live", "lives", "lived", "in {city}"), ("work", "works", "worked", "in {city}")),
    "job": (("become", "becomes", "became", "a {job}"),),
    "animal": (("feed", "feeds", "fed", "a {animal}"), ("see", "sees", "saw", "a {animal}")),
    "food": (("eat", "eats", "ate", "{food}"), ("cook", "cooks", "cooked", "{food}")),
    "thing": (
        ("buy", "buys", "bought", "a {colour} {thing}"),
        ("lose", "loses", "lost", "a {colour} {thing}"),
    ),
    "day": (("rest", "rests", "rested", "on {day}"),),
    "instrument": (("play", "plays", "played", "the {instrument}"),),
    "vehicle": (("travel", "travels", "travelled", "by {vehicle}"),),
    "mood": (("feel", "feels", "felt", "{mood}"),),
}

# Questions about one person, without the subject: '{s}' is a name or a pronoun.
QUESTIONS: dict[str, str] = {
    "city": "In which city does {s} {verb}?",
    "job": "Which job does {s} have?",
    "animal": "Which animal does {s} {verb}?",
    "food": "Which food does {s} {verb}?",
    "thing": "Which thing does {s} {verb}?",
    "day": "On which day does {s} {verb}?",
    "instrument": "Which instrument does {s} {verb}?",
    "vehicle": "By which vehicle does {s} {verb}?",
    "mood": "How does {s} {verb}?",
}
