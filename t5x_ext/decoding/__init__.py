"""From trained parameters to text. Never imports TensorFlow or SeqIO."""
