"""Token ids as text to be looked at: with the special tokens that decoding leaves out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mixtures.json_vocabularies import JsonVocabulary
from mixtures.vocabularies import Vocabulary


def spell(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """Text of all ids, what ends, begins or pads it written out as `</s>`, `<s>`, `<pad>`.

    A `tokenizer.json` has names of its own for these, which are taken.
    """
    if isinstance(vocabulary, JsonVocabulary):
        return vocabulary.spell(ids)
    ends = getattr(vocabulary, "eos_ids", (vocabulary.eos_id,))
    names = {vocabulary.pad_id: "<pad>", getattr(vocabulary, "bos_id", None): "<s>"}
    names |= dict.fromkeys(ends, "</s>")
    return "".join(
        "".join(names[token] for token in run) if is_special else vocabulary.decode(run)
        for is_special, run in _runs(ids, names)
    )


def spell_marked(
    vocabulary: Vocabulary, ids: Sequence[int], marked: Sequence[bool], first: str, last: str
) -> str:
    """The same with `first` and `last` around each run of marked tokens."""
    text, shown, done = "", "", 0
    for is_marked, run in itertools.groupby(map(bool, marked)):
        done += len(list(run))
        # From the whole text so far: alone, a run would lose the space it begins with.
        shown, before = spell(vocabulary, ids[:done]), shown
        part = shown.removeprefix(before)
        text += f"{first}{part}{last}" if is_marked else part
    return text


def _runs(ids: Sequence[int], special: dict[int | None, str]) -> list[tuple[bool, list[int]]]:
    groups = itertools.groupby(map(int, ids), key=special.__contains__)
    return [(is_special, list(run)) for is_special, run in groups]
