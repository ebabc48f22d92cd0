"""Train state, pure step, optimizers, schedules and the loop. Never imports TensorFlow or SeqIO."""
