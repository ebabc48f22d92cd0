"""Examples of our own tasks, straight from their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mixtures.joining import response_tokens
from mixtures.prompts import get_prompt
from mixtures.rendering import Encoder, Renderer
from mixtures.tasks import RowTask
from t5x_ext.data.records import Example


def read_examples(task: RowTask, split: str, lengths: Mapping[str, int]) -> Iterator[Example]:
    """The examples of a split, one after the other: those of `mixtures.seqio_tasks.as_seqio`."""
    context, rows = task.context, task.read_rows(split)
    vocabulary, joined = context.vocabulary, context.joined
    render = Renderer(
        Encoder(vocabulary, not joined, lengths["inputs"]),
        Encoder(vocabulary, True, lengths["targets"]),
        prompt=task.prompt,
        trim=context.trim,
        joined=joined,
    )
    has_sources = any(row.source or row.targets for row in rows)
    for row in rows:
        rendered = render(row)
        prompt = str(rendered.prompt)  # of a chat's text, the text alone
        targets, cut = tokenize_targets(
            np.array(rendered.targets, np.int32),
            rendered.target_truncated,
            row.targets or row.references,
            vocabulary,
            True,
            lengths["targets"],
            prompt if joined else None,
        )
        yield Example(
            id=row.id,
            task=row.task,
            category=row.category,
            inputs=np.array(rendered.inputs, np.int32),
            targets=targets,
            inputs_pretokenized=prompt,
            references=tuple(row.references),
            truncated=rendered.truncated,
            source=row.source if has_sources else None,
            edits=row.edits,
            target_truncated=cut,
        )


def fingerprint(task: RowTask, split: str) -> str:
    """SHA-256 (hex) of everything that the examples of a split are made of, but their lengths."""
    context = task.context
    settings = (get_prompt(task.prompt).versioned_name, context.trim, context.joined)
    digest = hashlib.sha256(f"{settings} {context.vocabulary.fingerprint}\n".encode())
    for row in task.read_rows(split):
        digest.update(f"{row}\n".encode())
    return digest.hexdigest()


def tokenize_targets(
    target: np.ndarray,
    is_cut: bool,
    texts: tuple[str, ...],
    vocabulary: Any,
    add_eos: bool,
    length: int,
    joined_prompt: str | None,
) -> tuple[tuple[np.ndarray, ...], bool]:
    """One target per text to train on, as an example's own target is tokenised.

    Args:
        target: int32 [targets length], the example's own.
        is_cut: whether it lost tokens to fit.
        texts: what training may draw from.
        vocabulary: of targets.
        add_eos: whether they end in EOS.
        length: tokens at most, EOS included.
        joined_prompt: the prompt, where responses are tokenised behind it; else None.

    Returns:
        The targets, int32 [targets length] each, and whether one of them lost tokens to fit.
    """
    if len(texts) < 2:
        return (target,), is_cut
    end = [vocabulary.eos_id] if add_eos else []
    targets, longest = [], 0
    for text in texts:
        if joined_prompt is None:
            tokens = list(vocabulary.encode(text))
        else:
            tokens = response_tokens(vocabulary, joined_prompt, text)
        longest = max(longest, len(tokens) + len(end))
        targets.append(np.array(tokens[: length - len(end)] + end, np.int32))
    # A task may rewrite its targets after it kept the references (a label format, say). Then the
    # references are for scoring only.
    if not any(np.array_equal(target, tokens) for tokens in targets):
        return (target,), is_cut
    return tuple(targets), longest > length
