"""`t5x.eval`."""

from t5x_ext.eval import evaluate

__all__ = ["evaluate"]
