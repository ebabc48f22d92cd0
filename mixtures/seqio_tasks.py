"""Tasks of ours as SeqIO tasks."""

from __future__ import annotations

import functools

import seqio

from mixtures import task_metrics
from mixtures.preprocessors import render_prompt
from mixtures.sources import RowSource
from mixtures.tasks import RowTask


def as_seqio(task: RowTask) -> seqio.Task:
    """A SeqIO task that renders the rows of `task`; it is not registered.

    The step before which SeqIO's cache keeps data comes first, so a cache holds rows, and serves
    any sequence length.
    """
    context = task.context
    vocabulary = context.vocabulary.as_seqio()
    return seqio.Task(
        task.name,
        RowSource(task.read_rows, task.splits),
        output_features={
            "inputs": seqio.Feature(vocabulary, add_eos=not context.joined),
            "targets": seqio.Feature(vocabulary, add_eos=True),
        },
        preprocessors=[
            seqio.CacheDatasetPlaceholder(),
            functools.partial(
                render_prompt, prompt=task.prompt, trim=context.trim, joined=context.joined
            ),
        ],
        postprocess_fn=task_metrics.references_or_text,
        metric_fns=[task_metrics.rouge_l, task_metrics.exact_match],
    )
