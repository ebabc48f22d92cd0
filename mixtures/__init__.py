"""Task files, own files and Python rows as SeqIO tasks.

    import mixtures, seqio
    name = "superni.ql.def_pos2.task1344_glue_entailment_classification.n200"
    seqio.get_mixture_or_task(name).get_dataset({"inputs": 1024, "targets": 128}, "train")

Importing this package reads no data. It imports SeqIO, and with it TensorFlow, because it has to
teach SeqIO to build `superni.*` tasks when they are asked for (`mixtures.on_demand`); it hides
every accelerator from TensorFlow, which would otherwise take their memory from JAX.
"""

from __future__ import annotations

from mixtures import devices, on_demand
from mixtures.errors import DataError
from mixtures.lookup import resolve
from mixtures.names import task_name
from mixtures.own_data import register
from mixtures.prompts import register_prompt
from mixtures.tasks import configure, context_token, current_context

__all__ = [
    "DataError",
    "configure",
    "context_token",
    "current_context",
    "register",
    "register_prompt",
    "resolve",
    "task_name",
]

devices.hide_accelerators()
on_demand.install()
