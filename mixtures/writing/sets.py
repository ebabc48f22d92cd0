"""The writing sets: which task each is for, how it is scored, and which files hold it.

The files have the names under which they are distributed; `mixtures.writing.finding` opens them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from mixtures.writing import layouts
from mixtures.writing.layouts import Item

SPLITS = ("train", "validation", "test")

# The only instruction that the paper has for each task.
INSTRUCTIONS = {
    "grammaticality": "Fix grammatical errors in the text.",
    "fluency": "Make the text more fluent.",
    "clarity": "Make the text more concise and readable.",
    "coherence": "Make the text more cohesive.",
    "simplification": "Simplify the text.",
    "neutralization": "Neutralize the text.",
    "paraphrasing": "Paraphrase the text.",
}
TASKS = tuple(INSTRUCTIONS)
HELD_OUT = "paraphrasing"  # never trained on, to see what generic data is worth
TRAINED = tuple(task for task in TASKS if task != HELD_OUT)
GENERIC = "generic"
EDIT_METRICS = frozenset({"m2"})  # those that cannot do without gold edits

Read = Callable[..., list[Item]]


class SplitFiles(NamedTuple):
    """Files that hold one split together, and their reader."""

    read: Read
    names: tuple[str, ...]


@dataclass(frozen=True)
class WritingSet:
    """One set.

    Attributes:
        name: the set.
        task: of `TASKS`, or "generic".
        metrics: names of the metrics it is scored with, the one of the paper's tables first.
        splits: for each split the files it is found in, first to last, and its name in file names.
        tokenized: whether its texts are tokens separated by spaces.
        label: the rows to take, where files hold several kinds of edit.
        references: how many each row has; 0: any number.
        rows: published number of rows by split, where it is known.
    """

    name: str
    task: str
    metrics: tuple[str, ...]
    splits: dict[str, tuple[str, tuple[SplitFiles, ...]]]
    tokenized: bool = False
    label: str = ""
    references: int = 1
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """What its files and folder are called: sets of one label share their files."""
        return self.name.removesuffix(f"_{self.label}") if self.label else self.name


def _one(read: Read, **names: str) -> dict[str, tuple[str, tuple[SplitFiles, ...]]]:
    """Splits of one file each."""
    return {split: (split, (SplitFiles(read, (name,)),)) for split, name in names.items()}


def _numbered(split: str, source: str, reference: str, count: int) -> tuple[str, tuple[SplitFiles]]:
    """A split of a source file and `count` numbered reference files."""
    names = [pattern.format(split=split) for pattern in (source, reference)]
    references = tuple(f"{names[1]}{number}" for number in range(count))
    return split, (_parallel(names[0], *references),)


def _parallel(*names: str) -> SplitFiles:
    return SplitFiles(layouts.read_parallel, names)


def _turkcorpus(split: str) -> tuple[str, tuple[SplitFiles, ...]]:
    name, (parallel,) = _numbered(
        split, "GEM/{split}.8turkers.tok.norm", "GEM/{split}.8turkers.tok.turk.", 8
    )
    table = SplitFiles(layouts.read_turk_table, (f"truecased/{split}.8turkers.organized.tsv",))
    return name, (parallel, table)


def _iterater(label: str, test: int) -> WritingSet:
    """Rows of one label: of version 2 to train on, of the small human set to test on."""
    splits = {}
    human, version_2 = ("human_sent_level/{}.json",), ("iterater_v2/{}.json", "iterater_v2.{}.json")
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        names = (*human, *version_2) if split == "test" else (*version_2, *human)
        places = [pattern.format(name) for pattern in names]
        found = tuple(SplitFiles(layouts.read_iterater, (place,)) for place in places)
        splits[split] = (name, found)
    return WritingSet(
        f"iterater_{label}", label, ("sari",), splits, label=label, rows={"test": test}
    )


def _wnc(split: str) -> SplitFiles:
    return SplitFiles(layouts.read_wnc, (f"WNC/biased.word.{split}",))


def _wi(level: str, **rows: int) -> WritingSet:
    """Whole texts of W&I (levels A, B and C) or LOCNESS (N), whose sentences M2 files have."""
    splits: dict[str, tuple[str, tuple[SplitFiles, ...]]] = {}
    for split in rows:
        named = {"train": "train", "test": "dev"}[split]
        texts = SplitFiles(layouts.read_character_edits, (f"json/{level}.{named}.json",))
        splits[split] = (named, (texts,))
    name = f"wi_{level.lower()}"
    return WritingSet(name, "grammaticality", ("errant", "gleu"), splits, references=0, rows=rows)


def _edits(name: str) -> SplitFiles:
    return SplitFiles(layouts.read_m2_items, (name,))


_GEC = ("m2", "errant")
# Without alternative corrections, as papers score it, if both are there.
_CONLL = (
    "noalt/official-2014.combined.m2",
    "alt/official-2014.combined.m2",
    "alt/official-2014.combined-withalt.m2",
)
_SIDES = ("src", "dst")
_EVERY = (
    WritingSet(
        "conll2014",
        "grammaticality",
        _GEC,
        {"test": ("test", tuple(map(_edits, _CONLL)))},
        tokenized=True,
        references=0,
        rows={"test": 1312},
    ),
    WritingSet(
        "bea2019",
        "grammaticality",
        ("errant", "m2"),
        _one(layouts.read_m2_items, test="m2/ABCN.dev.gold.bea19.m2"),
        tokenized=True,
        references=0,
        rows={"test": 4384},
    ),
    WritingSet(
        "wi_locness",
        "grammaticality",
        ("errant", "m2"),
        _one(layouts.read_m2_items, train="m2/ABC.train.gold.bea19.m2"),
        tokenized=True,
        references=0,
        rows={"train": 34308},
    ),
    _wi("A", train=1300, test=130),
    _wi("B", train=1000, test=100),
    _wi("C", train=700, test=70),
    _wi("N", test=50),
    WritingSet(
        "clang8",
        "grammaticality",
        _GEC,
        _one(layouts.read_pairs, train="clang8_source_target_en.spacy_tokenized.tsv"),
        tokenized=True,
        rows={"train": 2372119},
    ),
    WritingSet(
        "jfleg_edits",
        "grammaticality",
        ("errant", "m2"),
        _one(
            layouts.read_m2_items,
            validation="m2/jfleg.dev.errant.m2",
            test="m2/jfleg.test.errant.m2",
        ),
        tokenized=True,
        references=0,
        rows={"validation": 754, "test": 747},
    ),
    WritingSet(
        "jfleg",
        "fluency",
        ("gleu", "gleu_closed"),  # the one has a random part, the other none
        {
            "validation": _numbered("dev", "dev/{split}.src", "dev/{split}.ref", 4),
            "test": _numbered("test", "test/{split}.src", "test/{split}.ref", 4),
        },
        tokenized=True,
        references=4,
        rows={"validation": 754, "test": 747},
    ),
    _iterater("fluency", 88),
    _iterater("clarity", 185),
    _iterater("coherence", 35),
    WritingSet(
        "turkcorpus",
        "simplification",
        ("sari",),
        # Of "tune" the paper says training set: there is no other.
        {"train": _turkcorpus("tune"), "test": _turkcorpus("test")},
        tokenized=True,
        references=8,
        rows={"train": 2000, "test": 359},
    ),
    WritingSet(
        "turkcorpus_detok",
        "simplification",
        ("sari",),
        {
            "test": _numbered(
                "test", "{split}.truecase.detok.orig", "{split}.truecase.detok.simp.", 8
            )
        },
        references=8,
        rows={"test": 359},
    ),
    WritingSet(
        "asset",
        "simplification",
        ("sari",),
        {
            "validation": _numbered(
                "valid", "dataset/asset.{split}.orig", "dataset/asset.{split}.simp.", 10
            ),
            "test": _numbered(
                "test", "dataset/asset.{split}.orig", "dataset/asset.{split}.simp.", 10
            ),
        },
        references=10,
        rows={"validation": 2000, "test": 359},
    ),
    WritingSet(
        "wikilarge",
        "simplification",
        ("sari",),
        {
            split: (name, (_parallel(*(f"wiki.full.aner.ori.{name}.{side}" for side in _SIDES)),))
            for split, name in (("train", "train"), ("validation", "valid"), ("test", "test"))
        },
        tokenized=True,
        rows={"train": 296402, "validation": 992, "test": 359},
    ),
    WritingSet(
        "wnc",
        "neutralization",
        ("sari",),
        {
            "train": ("train", (_wnc("train"),)),
            "validation": ("dev", (_wnc("dev"),)),
            "test": ("test", (_wnc("test"),)),
        },
        rows={"train": 53803, "validation": 700, "test": 1000},
    ),
    WritingSet(
        "wnc_sample",
        "neutralization",
        ("sari",),
        {
            split: (split, (_parallel(f"wnc_sample/pre.{split}", f"wnc_sample/post.{split}"),))
            for split in ("train", "test")
        },
        tokenized=True,
        rows={"train": 1000, "test": 100},
    ),
    WritingSet(
        "stsb",
        "paraphrasing",
        ("sari",),
        {
            split: (name, (SplitFiles(layouts.read_stsb, (f"stsb-en-{name}.csv",)),))
            for split, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
        },
        rows={"train": 266, "validation": 56, "test": 97},
    ),
    WritingSet(
        "alpaca",
        GENERIC,
        ("rougeL",),
        _one(layouts.read_alpaca, train="alpaca_data.json"),
        rows={"train": 52002},
    ),
    WritingSet(
        "alpaca_gpt4",
        GENERIC,
        ("rougeL",),
        _one(layouts.read_alpaca, train="alpaca_gpt4_data.json"),
    ),
    # The train track of the SuperNI release at hand, else of the bundled suite.
    WritingSet("superni", GENERIC, ("rougeL",), {"train": ("train", ())}),
    WritingSet("alpaca_seed", GENERIC, ("rougeL",), {"train": ("train", ())}, rows={"train": 175}),
)
SETS = {each.name: each for each in _EVERY}
