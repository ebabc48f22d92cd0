"""`t5x.examples.scalable_t5.network`: every layer has its own table of relative positions."""

from __future__ import annotations

import dataclasses

from t5x_ext.models import network

__all__ = ["T5Config", "Transformer"]


@dataclasses.dataclass(frozen=True)
class T5Config(network.T5Config):
    """The fields of `t5x_ext.models.network.T5Config`, for this module's Transformer."""


def Transformer(config: T5Config) -> network.Transformer:  # noqa: N802  # T5X's name of a class
    """The network with a position table per layer.

    Args:
      config: shape and numerics.
    """
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(network.T5Config)}
    fields["position_table_per_layer"] = True
    return network.Transformer(network.T5Config(**fields))
