"""Numbers that users give: whole or finite, and in range, checked before anything is built on them.

One place for gin values, flags and arguments in Python. NaN passes every comparison that is written
as a refusal (`if value < 0`), and integers beyond 64 bits fail far from where they were set.
"""

from __future__ import annotations

import argparse
import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any

from t5x_ext.errors import ConfigError

INT64 = 2**63 - 1
MAX_ROWS = 1 << 20  # examples, or rows, of one batch
MAX_TOKENS = 1 << 20  # of one example
MAX_SIZE = 2**31 - 1  # of an axis of an array
PER_BATCH = "batch"  # as PACK: the examples of each batch are joined


def check_pack(field: str, value: Any) -> None:
    """Refuses any value but True, False or "batch".

    Raises:
        ConfigError: the value is refused.
    """
    if not (value is True or value is False or value == PER_BATCH):
        raise ConfigError(f'{field}: {_shown(value)}; allowed: True, False, "{PER_BATCH}"')


def check_int(field: str, value: Any, low: int, high: int = INT64) -> None:
    """Refuses what is not an integer of `low` to `high`, both included.

    Args:
        field: Name of the setting, for the message.
        value: What was given; NumPy's integers pass, booleans do not.
        low: The least.
        high: The most.

    Raises:
        ConfigError: the value is refused.
    """
    is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_int or not low <= value <= high:
        if low < 0 or high < INT64:
            allowed = f"{low:,} to {high:,}"
        else:
            allowed = f"{low} and more" + (", in 64 bits" if is_int and value > high else "")
        raise ConfigError(f"{field}: {_shown(value)}; allowed: {allowed}")


def check_real(field: str, value: Any, low: float, high: float = math.inf, hint: str = "") -> None:
    """Refuses what is not a finite number of `low` to `high`, both included.

    Args:
        field: Name of the setting, for the message.
        value: What was given.
        low: The least; may be -inf.
        high: The most; may be inf.
        hint: What to say after the message.

    Raises:
        ConfigError: the value is refused.
    """
    if not _is_finite(value) or not low <= value <= high:
        if high < math.inf:
            allowed = f"{low:g} to {high:g}"
        else:
            allowed = f"finite, {low:g} and more" if low > -math.inf else "finite numbers"
        raise ConfigError(f"{field}: {_shown(value)}; allowed: {allowed}{hint}")


def check_positive(field: str, value: Any) -> None:
    """Refuses what is not a finite number above 0 once it is a float32.

    Raises:
        ConfigError: the value is refused.
    """
    if not _is_finite(value) or not 2.0**-126 <= value < 2.0**128:
        raise ConfigError(f"{field}: {_shown(value)}; allowed: numbers above 0 that float32 holds")


def check_share(field: str, value: Any) -> None:
    """Refuses what is not a number of at least 0 and, once it is a float32, below 1.

    Raises:
        ConfigError: the value is refused.
    """
    if not _is_finite(value) or not 0 <= value <= 1 - 2.0**-24:
        raise ConfigError(f"{field}: {_shown(value)}; allowed: [0, 1)")


def _is_finite(value: Any) -> bool:
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        return is_real and math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def _shown(value: Any) -> str:
    # Python refuses to write integers of thousands of digits.
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


def to_list(field: str, value: Any, allowed: str) -> list[Any]:
    """The items of what a caller gives as a list: any iterable but a text or a mapping.

    Args:
        field: Name of the argument, for the message.
        value: What was given.
        allowed: What the list may hold, for the message.

    Raises:
        ConfigError: the value is no such list.
    """
    try:
        items = None if isinstance(value, str | bytes | Mapping) else iter(value)
    except TypeError:
        items = None
    if items is None:
        raise ConfigError(f"{field}: {_shown(value)}; allowed: {allowed}")
    return list(items)


def to_texts(field: str, value: Any) -> tuple[str, ...]:
    """What a caller gives as a list of texts, none of which is empty.

    Raises:
        ConfigError: the value is no such list.
    """
    allowed = "a list of texts, none of them empty"
    texts = to_list(field, value, allowed)
    if not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"{field}: {texts!r:.60}; allowed: {allowed}")
    return tuple(texts)


def check_seed(field: str, value: Any) -> None:
    """Refuses a seed that is not an integer from 0 to 2^63 - 1."""
    check_int(field, value, 0)


def check_lengths(field: str, lengths: Any) -> None:
    """Refuses anything but {'inputs': tokens, 'targets': tokens}, two tokens and more each."""
    shown = dict(lengths) if isinstance(lengths, Mapping) else lengths
    good = isinstance(shown, dict) and set(shown) == {"inputs", "targets"}
    if not good or not all(
        type(length) is int and 2 <= length <= MAX_TOKENS for length in shown.values()
    ):
        raise ConfigError(
            f"{field}: {shown!r}; allowed: 'inputs' and 'targets', 2 to {MAX_TOKENS:,} "
            "tokens each (the last is EOS)"
        )


def int_flag(low: int, high: int = INT64) -> Callable[[str], int]:
    """The `type` of a flag that takes an integer."""

    def parse(text: str) -> int:
        # int() itself takes more: underscores, other scripts' digits, spaces.
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else None
        return _checked(check_int, value, text, low, high)

    return parse


def real_flag(low: float, high: float = math.inf) -> Callable[[str], float]:
    """The `type` of a flag that takes a number."""

    def parse(text: str) -> float:
        try:
            value = float(text) if text.isascii() and "_" not in text else None
        except ValueError:
            value = None
        return _checked(check_real, value, text, low, high)

    return parse


def _checked(check: Callable[..., None], value: Any, text: str, low: Any, high: Any) -> Any:
    try:
        check("", value, low, high)
    except ConfigError as error:
        allowed = str(error).partition("; ")[2]
        raise argparse.ArgumentTypeError(f"{text!r}; {allowed}") from None
    return value
