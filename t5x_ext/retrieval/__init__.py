"""Passages for prompts: BM25 over your own corpus, and how much each passage counts.

No JAX here: the index is NumPy on the host's disk.
"""

from __future__ import annotations

from t5x_ext.retrieval.corpus import Corpus, Passage
from t5x_ext.retrieval.index import BM25, Hit, Index, find_index, open_index
from t5x_ext.retrieval.sampling import CorpusSample
from t5x_ext.retrieval.weights import WEIGHTINGS, log_weights

__all__ = [
    "BM25",
    "Corpus",
    "CorpusSample",
    "Hit",
    "Index",
    "Passage",
    "WEIGHTINGS",
    "find_index",
    "log_weights",
    "open_index",
]
