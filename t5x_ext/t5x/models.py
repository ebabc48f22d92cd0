"""`t5x.models`."""

from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel

__all__ = ["DecoderOnlyModel", "EncoderDecoderModel"]
