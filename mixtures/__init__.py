"""Task files, own files and Python rows as SeqIO tasks.

    import mixtures, seqio
    name = "superni.ql.def_pos2.task1344_glue_entailment_classification.n200"
    seqio.get_mixture_or_task(name).get_dataset({"inputs": 1024, "targets": 128}, "train")

Importing this package reads no data and does not import SeqIO; it sees to it that SeqIO knows our
names once it is imported (`mixtures.seqio_hook`), and that TensorFlow, which comes with it, takes
no accelerator from JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mixtures import seqio_hook
from mixtures.errors import DataError
from mixtures.names import task_name
from mixtures.prompts import register_prompt

if TYPE_CHECKING:
    from mixtures.context import configure, current_context
    from mixtures.lookup import resolve
    from mixtures.own_data import register

__all__ = [
    "DataError",
    "configure",
    "current_context",
    "register",
    "register_prompt",
    "resolve",
    "task_name",
]

# These import much, so they are imported when they are first used.
_IMPORTED_LATE = {
    "configure": "mixtures.context",
    "current_context": "mixtures.context",
    "register": "mixtures.own_data",
    "resolve": "mixtures.lookup",
}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_LATE:
        raise AttributeError(f"module 'mixtures' has no attribute {name!r}")
    return getattr(importlib.import_module(_IMPORTED_LATE[name]), name)


seqio_hook.watch()
