"""What may go wrong while a checkpoint is read: damage, which an older checkpoint makes up for, and
everything else, which it does not.

Damage means that bytes are missing or are not those that were saved: a file is gone or has another
size, its content does not decode, a checksum differs. A server that is down, a path that may not be
read or a host without memory says nothing about the checkpoint, and ends the command instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from etils import epath

from t5x_ext.errors import ConfigError

_MAX_CHARACTERS = 200

# TensorStore raises ValueError for all its errors and begins the message with the kind. It gives
# these for content that does not decode, and for chunks that are not there.
_DAMAGE = ("DATA_LOSS", "NOT_FOUND", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "OUT_OF_RANGE")
# The numbers it adds where the file system or a server has failed; missing files have these.
_ERROR_CODE = re.compile(r"(?:os_error_code|http_response_code)='(\d+)'")
_MISSING = ("2", "404")


class Damage(ValueError):
    """Bytes of a checkpoint are missing, or are not those that were saved."""


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Around code that takes apart what was read: whatever it stumbles over is damage.

    Args:
        what: The file, for the message; may be empty.

    Raises:
        Damage: If the body raises what decoders and look-ups raise.
    """
    try:
        yield
    except (ConfigError, Damage):
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise Damage(f"{what}: {first_line(error)}" if what else first_line(error)) from error


@contextmanager
def reading(checkpoint: epath.Path) -> Iterator[None]:
    """Around reading a checkpoint: tells the file system's errors apart.

    Raises:
        Damage: If a file is missing.
        ConfigError: If a file cannot be read now, or the checkpoint has been deleted meanwhile.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if not checkpoint.is_dir():
            raise ConfigError(f"{checkpoint}: was deleted while it was being read") from error
        raise Damage(f"{error.filename or checkpoint}: {reason(error)}") from error
    except OSError as error:
        where = error.filename or checkpoint
        raise ConfigError(f"{where}: cannot be read now ({reason(error)})") from error


def tensorstore_error(path: epath.Path, error: ValueError) -> ValueError:
    """What to raise for an error of TensorStore's.

    Args:
        path: The array.
        error: As TensorStore raised it.

    Returns:
        `Damage`, or a `ConfigError` if the array may well be sound.
    """
    text = str(error)
    code = _ERROR_CODE.search(text)
    if text.startswith(_DAMAGE) and (code is None or code[1] in _MISSING):
        return Damage(f"{path.name}: {_first_line(text)}")
    why = os.strerror(int(code[1])) if code and "os_error" in code[0] else _first_line(text)
    return ConfigError(f"{path}: cannot be read now ({why}); nothing says that it is damaged")


def reason(error: Exception) -> str:
    """Why files could not be read or written, in a few words; TensorStore takes a page."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(code[1]) if code else getattr(error, "errno", None)
    return os.strerror(number) if number else first_line(error)


def first_line(error: Any) -> str:
    """An exception in one line of bounded length."""
    line = _first_line(str(error))
    if isinstance(error, Damage):  # says all of it itself
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _first_line(text: str) -> str:
    """The first line, without the specs and places in the source that TensorStore appends."""
    line = text.strip().partition("\n")[0]
    return re.sub(r" \[(tensorstore_spec|source locations)=.*", "", line)[:_MAX_CHARACTERS]
