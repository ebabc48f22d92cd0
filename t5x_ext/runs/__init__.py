"""A training run in its directory, and restored checkpoints to evaluate."""
