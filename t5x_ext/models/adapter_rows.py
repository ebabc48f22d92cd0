"""Which adapter each row of a batch uses: said around what is traced, read by `blocks.lora`.

Nothing here imports Flax: decoding says it for networks of any kind.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

_rows: contextvars.ContextVar[Any] = contextvars.ContextVar("rows", default=None)


@contextlib.contextmanager
def adapter_rows(index: Any) -> Iterator[None]:
    """Says which adapter each row of a batch uses, for what is traced inside.

    Args:
      index: int32 [B], into the adapters that the network holds; None leaves it open, which a
        network of one adapter needs.
    """
    token = _rows.set(index)
    try:
        yield
    finally:
        _rows.reset(token)


def current_rows() -> Any:
    """The innermost index, int32 [B]; None outside of `adapter_rows`."""
    return _rows.get()
