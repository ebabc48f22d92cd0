"""`t5x.checkpoints`."""

from t5x_ext.checkpoints import Checkpointer

__all__ = ["Checkpointer"]
