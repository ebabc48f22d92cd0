"""Modules of `t5x.examples.t5`."""
