"""`t5x.train`."""

from t5x_ext.train import train

__all__ = ["train"]
