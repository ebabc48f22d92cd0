"""What a directory of PEFT's holds, once it is read as ours, or before it is written."""

from __future__ import annotations

from typing import Any, NamedTuple

from t5x_ext.models.lora import LoRA
from t5x_ext.models.parameters import Params


class StoredAdapter(NamedTuple):
    """An adapter and what is known of how it was tuned.

    Attributes:
      lora: which layers it is for, and its size.
      params: float32 NumPy arrays in the tree of `Network.trainable`.
      base_path: of the base. Its last part alone is written, and read: paths of one machine are no
        use elsewhere. None if it is not known.
      base_fingerprint: see `fingerprints`; None if it is not known.
      step: updates it has seen; 0 if that is not known.
      prompt: name of the prompt it was tuned with; None without.
      base_quantization: of the base's kernels, "nf4" or "none"; None if it is not known.
    """

    lora: LoRA
    params: Params
    base_path: str | None = None
    base_fingerprint: str | None = None
    step: int = 0
    prompt: Any = None
    base_quantization: str | None = None
