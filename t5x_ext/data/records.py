"""The record that loading hands to batching, decoding and scoring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Example:
    """One tokenised example.

    Attributes:
        id: unique within its task.
        task: name of the task the example belongs to.
        category: the task's category, '' where the task states none.
        inputs: int32 [inputs length].
        targets: one int32 [targets length] per reference that training may draw.
        inputs_pretokenized: the prompt as text.
        references: every reference as text; scoring uses all of them.
        truncated: whether the prompt lost text to fit.
        source: the text to be rewritten as its data set has it; None for other tasks.
        edits: gold edits as JSON (see mixtures.records.Row), '' where there are none.
        target_truncated: whether one of `targets` lost tokens to fit.
    """

    id: str
    task: str
    category: str
    inputs: np.ndarray
    targets: tuple[np.ndarray, ...]
    inputs_pretokenized: str
    references: tuple[str, ...]
    truncated: bool
    source: str | None = None
    edits: str = ""
    target_truncated: bool = False
