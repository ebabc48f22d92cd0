"""Modules of `t5x.examples`: T5X's networks."""
