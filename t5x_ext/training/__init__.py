"""Train state, pure step, optimizers and the loop. Never imports TensorFlow or SeqIO."""
