"""Imports bm25s without JAX, which it would start.

`import bm25s` calls `jax.lax.top_k` once where JAX can be imported. That takes the accelerator in
every process that only retrieves, and `jax.distributed.initialize` fails afterwards. For as long as
bm25s is being imported, JAX is therefore hidden from it; it then selects with NumPy.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from types import ModuleType

_HIDDEN = ("jax", "jax.lax")
_lock = threading.Lock()


def import_bm25s() -> ModuleType:
    """The module; JAX's state is what it was before."""
    with _lock:
        if "bm25s" in sys.modules:
            return sys.modules["bm25s"]
        found = {name: sys.modules[name] for name in _HIDDEN if name in sys.modules}
        # None in sys.modules makes an import of that name fail, as if it were not installed.
        sys.modules.update(dict.fromkeys(_HIDDEN))  # type: ignore[arg-type]
        try:
            module = importlib.import_module("bm25s")
            # It asks for its own DEBUG lines, which reach standard error once any handler is there.
            logging.getLogger("bm25s").setLevel(logging.WARNING)
            return module
        finally:
            for name in _HIDDEN:
                del sys.modules[name]
            sys.modules.update(found)
