"""Models: families as Flax modules behind one interface. Never imports TensorFlow or SeqIO.

blocks/             the pieces that families are composed of
t5.py, t5_config.py                     a family: its composition, and its config without Flax
network.py          a module, and what is known of its parameters before they exist
generation.py       the network as decoding sees it
network_config.py, nnx_network.py, linen.py     networks of your own: NNX modules, Linen modules
recomputing.py      decoding for those that keep no keys and values
base_model.py, encoder_decoder.py       network, vocabularies and loss under T5X's names
parameters.py       declarations and initial values
losses.py, output_loss.py               cross-entropy in sums, without all logits at once
"""

from t5x_ext.models.base_model import BaseTransformerModel
from t5x_ext.models.decoder_only import DecoderOnlyModel
from t5x_ext.models.encoder_decoder import EncoderDecoderModel

__all__ = ["BaseTransformerModel", "DecoderOnlyModel", "EncoderDecoderModel"]
