"""`t5x.decoding`."""

from t5x_ext.decoding import beam_search, temperature_sample

__all__ = ["beam_search", "temperature_sample"]
