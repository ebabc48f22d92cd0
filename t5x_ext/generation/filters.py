"""Which of the tasks that a model wrote are kept.

The filters are Self-Instruct's in Alpaca's form, then some of our own; the first that applies is
the reason recorded. The result depends on the order of the tasks, which is that of (request, place
in its completion), never that of arrival.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mixtures.records import Row
from mixtures.specialization.records import Seed
from t5x_ext import bounds
from t5x_ext.generation.overlap import EvaluationTexts, fold
from t5x_ext.generation.similarity import SimilarTexts

# Alpaca's words for what a language model cannot do. 'map' and 'graph' also stop gene maps and
# survival graphs: set `blocked_words` by domain.
BLOCKED_WORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
    *("draw", "plot", "go to", "video", "audio", "music", "flowchart", "diagram"),
)

_PLACEHOLDER = re.compile(r"\[[^\]]*\]|<[^>]*>|n/a\.?|none\.?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class FilterSettings:
    """What is dropped.

    Attributes:
        min_words: fewest words of an instruction.
        max_words: most words of an instruction.
        blocked_words: words that an instruction must not have, in any case.
        max_rouge_l: an instruction that is nearer to a seed's or to one that was kept is dropped.
        require_input: drop tasks whose input is empty or a mere placeholder.
    """

    min_words: int = 4
    max_words: int = 150
    blocked_words: Sequence[str] = BLOCKED_WORDS
    max_rouge_l: float = 0.7
    require_input: bool = True

    def __post_init__(self) -> None:
        words = bounds.to_texts("FilterSettings.blocked_words", self.blocked_words)
        object.__setattr__(self, "blocked_words", words)
        bounds.check_int("FilterSettings.min_words", self.min_words, 0)
        bounds.check_int("FilterSettings.max_words", self.max_words, 1)
        bounds.check_real("FilterSettings.max_rouge_l", self.max_rouge_l, 0, 1)


class Verdict(NamedTuple):
    """What the filters say of a task.

    Attributes:
        reason: why it is dropped; None if it is kept.
        max_rouge_l: of the nearest instruction; None if an earlier filter dropped the task.
        nearest: that instruction, or the evaluation row that the task overlaps with.
    """

    reason: str | None
    max_rouge_l: float | None = None
    nearest: str | None = None


class TaskFilter:
    """Judges tasks one after the other; those that are kept are compared with what follows."""

    def __init__(
        self,
        settings: FilterSettings = FilterSettings(),
        seeds: Iterable[Seed] = (),
        evaluation: Iterable[Row] = (),
    ):
        """Starts with nothing but the seeds.

        Args:
            settings: the limits.
            seeds: tasks that must not be repeated.
            evaluation: rows that must not come back in part.
        """
        seeds = list(seeds)
        self._settings = settings
        self._known = SimilarTexts(seed.instruction for seed in seeds)
        self._pairs: set[tuple[str, str]] = set()
        self._seed_inputs = {fold(seed.input) for seed in seeds} - {""}
        self._evaluation = EvaluationTexts(evaluation)

    def judge(self, instruction: str, text: str) -> Verdict:
        """Judges the next task, and remembers it if it is kept.

        Args:
            instruction: of the task.
            text: its input.
        """
        reason = self._of_form(instruction)
        if reason:
            return Verdict(reason)
        score, nearest = self._known.nearest(instruction)
        if score > self._settings.max_rouge_l:
            return Verdict("similar", score, nearest)
        pair = (fold(instruction), fold(text))
        if pair in self._pairs:
            return Verdict("duplicate", score, nearest)
        if self._settings.require_input and is_placeholder(text):
            return Verdict("placeholder", score, nearest)
        if fold(text) in self._seed_inputs:
            return Verdict("seed_input", score, nearest)
        overlap = self._evaluation.find(text) or self._evaluation.find(instruction)
        if overlap:
            return Verdict("evaluation_overlap", score, f"{overlap.task}/{overlap.id}")
        self._known.add(instruction)
        self._pairs.add(pair)
        return Verdict(None, score, nearest)

    def _of_form(self, instruction: str) -> str | None:
        settings = self._settings
        if not settings.min_words <= len(instruction.split()) <= settings.max_words:
            return "length"
        for word in settings.blocked_words:
            if re.search(rf"\b{re.escape(word)}\b", instruction, re.IGNORECASE):
                return f"word:{word}"
        if instruction.startswith("Write a program"):
            return "program"
        first = instruction[:1]
        if first and first in string.punctuation:
            return "punctuation"
        return None if first.isascii() else "non_ascii"


def is_placeholder(text: str) -> bool:
    """Whether an input only stands for one: '[insert text]', '<abstract>', 'N/A', ''."""
    text = text.strip()
    return len(text) < 3 or _PLACEHOLDER.fullmatch(text) is not None
