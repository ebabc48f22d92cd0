"""Passages for prompts: BM25 over your own corpus, and how much each passage counts.

No JAX here: the index is NumPy on the host's disk.
"""

from __future__ import annotations

from t5x_ext.retrieval.corpus import Corpus, Passage
from t5x_ext.retrieval.index import BM25, Hit, Index, open_index
from t5x_ext.retrieval.weights import WEIGHTINGS, log_weights

__all__ = ["BM25", "Corpus", "Hit", "Index", "Passage", "WEIGHTINGS", "log_weights", "open_index"]
