"""Tasks of `writing.*` names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from mixtures import on_demand
from mixtures.context import Context, current_context
from mixtures.errors import DataError
from mixtures.records import Row
from mixtures.tasks import RowTask
from mixtures.writing.names import DEFAULT_PROMPT, PREFIX, parse_name
from mixtures.writing.rows import find_directory, rows_of, splits_of


def make_writing_task(name: str) -> RowTask:
    """The task that a `writing.*` name stands for under the current settings.

    A mixture by numbers of rows is one task over all of them: every row comes once an epoch.

    Raises:
        DataError: the name does not follow the grammar, or the data of a part is not there.
    """
    context = current_context()
    parsed = parse_name(name)
    splits = splits_of(parsed, find_directory(context.data_dir))

    def read_rows(split: str) -> list[Row]:
        return [row for rows in read_parts(name, split, context).values() for row in rows]

    return RowTask(name, splits, read_rows, parsed.prompt or DEFAULT_PROMPT, context)


def read_parts(name: str, split: str, context: Context | None = None) -> dict[str, list[Row]]:
    """The rows of a `writing.*` name by part, under the current settings or others.

    Raises:
        DataError: as of `make_writing_task`; or the name has no such split.
    """
    context = context or current_context()
    directory = find_directory(context.data_dir)
    parsed = parse_name(name)
    if split not in (allowed := splits_of(parsed, directory)):
        raise DataError(f"{name}: split '{split}'; allowed: {', '.join(allowed)}")
    return rows_of(parsed, split, directory, context.budget_seed, context.budget_order)


def fingerprint(name: str, split: str = "train") -> str:
    """SHA-256 over a name's rows: another mixture, count, seed or file gives another one."""
    digest = hashlib.sha256()
    for part, rows in read_parts(name, split).items():
        for row in rows:
            fields = (part, row.id, row.definition, row.input, *row.references, row.edits)
            digest.update("\x1f".join(fields).encode() + b"\x1e")
    return digest.hexdigest()


def register_mixture(name: str, parts: Mapping[str, float]) -> None:
    """Registers a mixture by shares of the examples that training sees.

    Rows of a part are repeated or left out as its share needs. For absolute numbers of rows, each
    seen once an epoch, see `mixtures.writing.names.mixture_name`.

    Args:
        name: a new SeqIO name.
        parts: share by set or task; the shares sum to 1.

    Raises:
        DataError: the name is taken, a part is unknown, or the shares do not sum to 1.
    """
    import seqio

    if on_demand.is_known(name):
        raise DataError(f"SeqIO name '{name}' is registered already; allowed: a new name")
    for part, share in parts.items():
        parse_name(f"{PREFIX}{part}")
        if not 0 < share <= 1 or isinstance(share, bool):
            raise DataError(
                f"mixture '{name}': {part}: {share!r}; allowed: shares above 0 that sum to 1 "
                "(for numbers of rows: writing.mixed.<part>_<count>...)"
            )
    if abs(sum(parts.values()) - 1) > 1e-6:
        raise DataError(
            f"mixture '{name}': shares sum to {sum(parts.values()):g}; allowed: a sum of 1"
        )
    seqio.MixtureRegistry.add(name, [(f"{PREFIX}{part}", share) for part, share in parts.items()])
