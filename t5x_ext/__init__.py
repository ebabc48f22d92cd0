"""Partitioned training, decoding and studies of language models, driven by gin.

from t5x_ext import Model       # weights of any layout; see t5x_ext.text_model
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t5x_ext.text_model import Model

__version__ = "0.1.0"
__all__ = ["Model"]

_CONFIGURED_BY_GIN = {
    f"t5x_ext.{name}" for name in ("train", "eval", "infer", "specialize", "study")
}


def __getattr__(name: str) -> Any:
    """Imports `Model` when it is first asked for: commands need neither it nor what it imports."""
    if name == "Model":
        from t5x_ext.text_model import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check_early(module: str, argv: Sequence[str]) -> None:
    """Checks what can be checked of a command's arguments before its module is imported.

    Args:
      module: what `python -m` takes for the command; of others nothing is checked.
      argv: the command's arguments.

    Raises:
      ConfigError: see `gin_utils.check_early`.
    """
    if module in _CONFIGURED_BY_GIN:
        from t5x_ext import gin_utils

        gin_utils.check_early(argv)


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
    is_module = sys.argv[:1] == ["-m"]
    if is_script or is_module:
        from t5x_ext.terminal import end_quietly_while_importing

        end_quietly_while_importing()
    if is_module:
        from t5x_ext.terminal import exit_status

        module, argv = sys.orig_argv[-len(sys.argv)].removeprefix("-m"), sys.argv[1:]
        if status := exit_status(lambda: check_early(module, argv)):
            sys.exit(status)


_prepare_for_command()
