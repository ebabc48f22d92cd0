"""Modules of `t5x.contrib.gpu.t5`."""
