"""The words of the writing suite, besides those of the bundled suite's stories."""

from __future__ import annotations

# hard -> easy; verbs as they follow he or she.
EASY_WORDS = {
    "resides": "lives",
    "purchases": "buys",
    "consumes": "eats",
    "observes": "sees",
    "misplaces": "loses",
    "nourishes": "feeds",
    "journeys": "travels",
    "prepares": "cooks",
    "labours": "works",
    "physician": "doctor",
    "educator": "teacher",
    "chauffeur": "driver",
    "mariner": "sailor",
    "automobile": "car",
    "vessel": "boat",
    "bicycle": "bike",
    "steed": "horse",
    "canine": "dog",
    "feline": "cat",
    "volume": "book",
    "melancholy": "sad",
    "furious": "angry",
    "jubilant": "happy",
    "tranquil": "calm",
    "forlorn": "lonely",
}

# All begin with a consonant, so that "a" stays "a".
PRAISE_AND_BLAME = (
    "brilliant",
    "disgraceful",
    "shameful",
    "glorious",
    "legendary",
    "pathetic",
    "wonderful",
    "notorious",
    "terrible",
    "fabulous",
    "so-called",
    "disgusting",
)
NEUTRAL_ADJECTIVES = {
    "animal": ("young", "tall", "brown", "heavy", "French"),
    "job": ("young", "tall", "local", "former", "French"),
    "instrument": ("wooden", "heavy", "modern", "French"),
    "food": ("warm", "fresh", "local", "French"),
}

# word -> another of the same meaning
SYNONYMS = {
    "big": "large",
    "small": "little",
    "pretty": "beautiful",
    "quick": "fast",
    "smart": "clever",
    "rich": "wealthy",
    "sick": "ill",
    "silent": "quiet",
    "strange": "odd",
    "brave": "bold",
    "begins": "starts",
    "shuts": "closes",
    "speaks": "talks",
    "picks": "chooses",
    "fixes": "repairs",
    "hides": "conceals",
    "gifts": "presents",
    "street": "road",
    "shop": "store",
    "sofa": "couch",
}
BEFORE_NOUNS = ("big", "small", "pretty", "quick", "smart", "rich", "strange", "brave", "silent")

# What somebody does and where, with a word that has a synonym.
ACTIONS = (
    "begins the work",
    "begins the game",
    "shuts the door",
    "shuts the window",
    "speaks to the guest",
    "speaks to the king",
    "picks the gifts",
    "picks the colour",
    "fixes the sofa",
    "fixes the roof",
    "hides the gifts",
    "hides the key",
    "cleans the sofa",
    "sweeps the street",
    "leaves the shop",
    "opens the shop",
)

# What happens to somebody, and whether it is welcome.
WELCOME = (
    "finds a coin",
    "wins the game",
    "gets a letter",
    "meets a friend",
    "passes the test",
    "buys a {colour} {thing}",
    "eats {food}",
)
UNWELCOME = (
    "loses the key",
    "misses the {vehicle}",
    "breaks a {thing}",
    "fails the test",
    "hurts an arm",
    "forgets the {instrument}",
)
SAD_MOODS = ("sad", "angry", "upset", "lonely")
