"""`t5x.examples.t5.network`."""

from t5x_ext.models.network import T5Config, Transformer

__all__ = ["T5Config", "Transformer"]
