"""`t5x.models`."""

from t5x_ext.models import EncoderDecoderModel

__all__ = ["EncoderDecoderModel"]
