"""T5, LLaMA, MPT and Falcon checkpoints as Hugging Face's transformers saves and loads them.

    open_hf     a directory with config.json and weights (safetensors, or pickles through PyTorch)
    write_hf    any opened checkpoint as such a directory
    families    what differs between families: config.json, and the names of tensors

Neither transformers nor the safetensors package is needed: `safetensors_files` reads and writes
the format itself, piece by piece, locally and on buckets.
"""

from __future__ import annotations

from t5x_ext.checkpoints.hugging_face.opening import open_hf
from t5x_ext.checkpoints.hugging_face.writing import write_hf

__all__ = ["open_hf", "write_hf"]
