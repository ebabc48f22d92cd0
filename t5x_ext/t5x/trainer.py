"""`t5x.trainer`."""

from t5x_ext.training.trainer import (
    BaseAction,
    EarlyStoppingAction,
    TerminateOnNanAction,
    Trainer,
    WeightMetricsComputer,
)

__all__ = [
    "BaseAction",
    "EarlyStoppingAction",
    "TerminateOnNanAction",
    "Trainer",
    "WeightMetricsComputer",
]
