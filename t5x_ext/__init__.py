"""Partitioned training, decoding and data-efficiency studies for T5 models, driven by gin."""

__version__ = "0.1.0"
