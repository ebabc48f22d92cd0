"""Partitioned training, decoding and data-efficiency studies for T5 models, driven by gin.

from t5x_ext import Model       # weights of any layout; see t5x_ext.text_model
"""

from __future__ import annotations

import os
import sys
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


def _prepare_for_command() -> None:
    """What a command needs before its module is imported; nothing where this is a library.

    `python t5x_ext/train.py`, as T5X's users call it, puts this directory first on Python's path,
    where seqio.py and others would be taken for packages of that name.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    script = os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or "")
    is_script = os.path.dirname(script) == here
    if is_script and sys.path and os.path.abspath(sys.path[0]) == here:
        del sys.path[0]
    # While `python -m` looks for the module that it runs, this stands for its path.
    if is_script or sys.argv[:1] == ["-m"]:
        from t5x_ext.terminal import end_quietly_while_importing

        end_quietly_while_importing()


_prepare_for_command()
