"""From trained parameters to text. Never imports TensorFlow or SeqIO."""

from __future__ import annotations

from t5x_ext.decoding.beam import Beam
from t5x_ext.decoding.methods import Method
from t5x_ext.decoding.sampling import Greedy, Sampling

__all__ = ["Beam", "Greedy", "Method", "Sampling"]
