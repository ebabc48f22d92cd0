"""Token ids that callers give, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t5x_ext import bounds
from t5x_ext.errors import ConfigError

Ids = Sequence[int] | np.ndarray


def check_ids(name: str, ids: Ids, vocab_size: int, may_be_empty: bool = False) -> np.ndarray:
    """Ids as an array: int32 [ids].

    Args:
      name: what they are, for messages.
      ids: what was given.
      vocab_size: ids are below it.
      may_be_empty: whether there may be none.

    Raises:
      ConfigError: there are none, or something is not an id of the vocabulary.
    """
    if isinstance(ids, str):
        raise ConfigError(f"{name} is a text; allowed: a list of token ids")
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of several lengths
        array = np.empty((0, 0))
    if may_be_empty and array.shape == (0,):
        return array.astype(np.int32)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        least = "0" if may_be_empty else "1"
        raise ConfigError(f"{name} is not a list of token ids; allowed: {least} or more")
    if array.min() < 0 or array.max() >= vocab_size:
        wrong = next(int(i) for i in array if not 0 <= i < vocab_size)
        raise ConfigError(f"{name} has id {wrong}; allowed: 0 to {vocab_size - 1}")
    return array.astype(np.int32)


def check_rows(
    call: str, rows: Sequence[Ids], vocab_size: int, may_be_empty: bool = False
) -> list[np.ndarray]:
    """Rows of ids, each as of `check_ids`.

    Raises:
      ConfigError: they are no list, or a row is not allowed.
    """
    listed = bounds.to_list(call, rows, "a list of rows of token ids")
    return [
        check_ids(f"{call}: row {index}", row, vocab_size, may_be_empty)
        for index, row in enumerate(listed)
    ]
