"""Checkpoints: saving and resuming a run, and moving parameters between runs.

    Checkpointer            a run's own checkpoints: MODEL_DIR/checkpoint_<step>/
    save_params/load_params parameters alone, for a new start (INITIAL_CHECKPOINT_PATH)
    load                    the same, and what the checkpoint says of itself
    open_source             any checkpoint (ours, Hugging Face's, T5X's) as tensors read in slices
    fingerprint             a short hash that names a set of initial weights
    hash_values             a hash of every value of a checkpoint, optimizer included
    PreemptionGuard         turns SIGTERM into "save, then stop"

One of ours is one directory, complete or absent, holding `state` (the arrays, Orbax), `data`
(the position in the training data, JSON) and `meta` (seed, config text and the like, JSON).
"""

from __future__ import annotations

from t5x_ext.checkpoints.checkpointer import Checkpointer, Restored
from t5x_ext.checkpoints.params import (
    fingerprint,
    hash_values,
    load,
    load_meta,
    load_params,
    open_source,
    save_params,
)
from t5x_ext.checkpoints.preemption import PreemptionGuard

__all__ = [
    "Checkpointer",
    "PreemptionGuard",
    "Restored",
    "fingerprint",
    "hash_values",
    "load",
    "load_meta",
    "load_params",
    "open_source",
    "save_params",
]
