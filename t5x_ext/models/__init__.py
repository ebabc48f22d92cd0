"""The T5 family. Needs jax only; never imports TensorFlow or SeqIO."""

from t5x_ext.models.encoder_decoder import EncoderDecoderModel

__all__ = ["EncoderDecoderModel"]
