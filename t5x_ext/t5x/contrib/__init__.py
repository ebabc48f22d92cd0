"""Modules of `t5x.contrib`."""
