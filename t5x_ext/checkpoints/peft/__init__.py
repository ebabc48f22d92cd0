"""PEFT's LoRA directories, read and written without torch.

`adapter_config.json` says which linear layers have an adapter, `adapter_model.safetensors` holds
A^T [rank, in] and B^T [out, rank] of each, under transformers' names. What we write has a third
file, `t5x_ext.json`, which PEFT does not look at: the base's fingerprint, whether its kernels were
in four bits, and the prompt.
"""

from t5x_ext.checkpoints.peft.reading import open_source, read
from t5x_ext.checkpoints.peft.stored import StoredAdapter
from t5x_ext.checkpoints.peft.writing import write

__all__ = ["StoredAdapter", "open_source", "read", "write"]
