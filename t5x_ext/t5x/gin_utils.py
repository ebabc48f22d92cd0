"""`t5x.gin_utils`."""

from t5x_ext.gin_utils import summarize_gin_config

__all__ = ["summarize_gin_config"]
