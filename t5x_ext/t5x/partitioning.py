"""`t5x.partitioning`."""

from t5x_ext.partitioning import (
    ModelBasedPjitPartitioner,
    PjitPartitioner,
    standard_logical_axis_rules,
)

__all__ = ["ModelBasedPjitPartitioner", "PjitPartitioner", "standard_logical_axis_rules"]
