"""From trained parameters to text. Never imports TensorFlow or SeqIO."""

from __future__ import annotations

from t5x_ext.decoding.beam import Beam
from t5x_ext.decoding.contrastive import Contrastive
from t5x_ext.decoding.methods import Method
from t5x_ext.decoding.outputs import Output
from t5x_ext.decoding.requests import LimitByKind
from t5x_ext.decoding.sampling import Greedy, Sampling
from t5x_ext.decoding.t5x_names import beam_search, temperature_sample

__all__ = [
    "Beam",
    "Contrastive",
    "Greedy",
    "LimitByKind",
    "Method",
    "Output",
    "Sampling",
    "beam_search",
    "temperature_sample",
]
