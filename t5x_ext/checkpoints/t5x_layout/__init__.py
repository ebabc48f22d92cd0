"""T5X's checkpoints: every layout it has written since 2021 is read, the portable one is written.

    is_t5x, open_t5x   recognise and open one checkpoint directory as a Source
    write_t5x          write a Source as the layout that every version of T5X restores
    is_tensorflow, tensorflow_error   recognise and refuse what T5 was first released as

A checkpoint is two things that vary independently: how arrays are kept (`stored`), and how its
network names and shapes parameters (`places`).
"""

from __future__ import annotations

from t5x_ext.checkpoints.t5x_layout.reading import open_t5x
from t5x_ext.checkpoints.t5x_layout.stored import INDEX, is_t5x, is_tensorflow, tensorflow_error
from t5x_ext.checkpoints.t5x_layout.writing import write_t5x

__all__ = ["INDEX", "is_t5x", "is_tensorflow", "open_t5x", "tensorflow_error", "write_t5x"]
