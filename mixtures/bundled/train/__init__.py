"""The train-track tasks, a module for each group of skills."""

from __future__ import annotations

from mixtures.bundled.specs import TaskSpec
from mixtures.bundled.train import (
    composition,
    extraction,
    judging,
    questions,
    rewriting,
    word_lists,
)


def train_track() -> list[TaskSpec]:
    """Returns all train-track tasks, in order."""
    return [
        *extraction.tasks(),
        *word_lists.tasks(),
        *judging.tasks(),
        *questions.tasks(),
        *composition.tasks(),
        *rewriting.tasks(),
    ]
