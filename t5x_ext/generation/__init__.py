"""Data that a model writes for itself: tasks after the example of seeds, and their answers.

Everything here is a function over records in JSONL files; the model is a callable. See
docs/self_specialization.md.
"""

from __future__ import annotations

from mixtures.specialization.records import Seed
from t5x_ext.generation.answering import ResponseSettings
from t5x_ext.generation.filters import FilterSettings
from t5x_ext.generation.instructions import InstructionSettings, write_instructions
from t5x_ext.generation.records import read_evaluation, read_seeds
from t5x_ext.generation.refill import refill
from t5x_ext.generation.requests import Completion, CompletionRequest, TextModel
from t5x_ext.generation.responses import write_responses

__all__ = [
    "Completion",
    "CompletionRequest",
    "FilterSettings",
    "InstructionSettings",
    "ResponseSettings",
    "Seed",
    "TextModel",
    "read_evaluation",
    "read_seeds",
    "refill",
    "write_instructions",
    "write_responses",
]
