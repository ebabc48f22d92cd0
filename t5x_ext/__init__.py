"""Partitioned training, decoding and data-efficiency studies for T5 models, driven by gin.

from t5x_ext import Model       # weights of any layout; see t5x_ext.text_model
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t5x_ext.text_model import Model

__version__ = "0.1.0"
__all__ = ["Model"]


def __getattr__(name: str) -> Any:
    """Imports `Model` when it is first asked for: commands need neither it nor what it imports."""
    if name == "Model":
        from t5x_ext.text_model import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
