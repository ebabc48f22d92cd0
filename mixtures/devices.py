"""Keeps TensorFlow, which only prepares data here, away from accelerators."""

from __future__ import annotations

import logging

import tensorflow as tf

logger = logging.getLogger(__name__)


def hide_accelerators() -> None:
    """Makes GPUs and TPUs invisible to TensorFlow, unless its runtime has started already."""
    for kind in ("GPU", "TPU"):
        try:
            tf.config.set_visible_devices([], kind)
        except RuntimeError:
            if tf.config.get_visible_devices(kind):
                logger.warning(
                    "TensorFlow was started before mixtures was imported and may hold the memory "
                    "of the %s; import mixtures first",
                    kind,
                )
