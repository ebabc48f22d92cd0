"""GGUF, the files of llama.cpp: LLaMA models, dequantised to float32.

open_gguf    a .gguf file, or a directory that holds one
"""

from __future__ import annotations

from t5x_ext.checkpoints.gguf.opening import find_gguf, open_gguf

__all__ = ["find_gguf", "open_gguf"]
