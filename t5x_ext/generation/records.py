"""The records that self-specialization reads: seeds, and rows to be evaluated on.

`mixtures.specialization.records` reads them; here what is wrong is a `ConfigError`.
"""

from __future__ import annotations

from pathlib import Path

from mixtures.errors import DataError
from mixtures.records import Row
from mixtures.specialization import bundled as bundled_domain
from mixtures.specialization import records
from mixtures.specialization.records import Seed
from t5x_ext import files
from t5x_ext.errors import ConfigError


def read_seeds(path: files.StrPath) -> list[Seed]:
    """Reads seeds.jsonl.

    Raises:
        ConfigError: the file cannot be read or holds none, a line is wrong (a seed without output
            among them), or an id is used twice.
    """
    try:
        return records.read_seeds(path)
    except DataError as error:
        raise ConfigError(str(error)) from None


def read_evaluation(path: files.StrPath, split: str = "test") -> list[Row]:
    """Reads one file of evaluation rows; see `mixtures.specialization.records`.

    Args:
        path: a JSONL file.
        split: rows of another split are left out; those without `split` are test rows.

    Raises:
        ConfigError: the file cannot be read, has no row of the split, or a line is wrong.
    """
    try:
        found = records.read_evaluation(path, split)
    except DataError as error:
        raise ConfigError(str(error)) from None
    if not found:
        raise ConfigError(f"{path}: no row of split '{split}'; allowed: a file that has one")
    return found


def evaluation_files(path: files.StrPath) -> list[files.StrPath]:
    """A file itself, or the .jsonl files of a directory, by name.

    Raises:
        ConfigError: there is none.
    """
    place = files.path(path, "evaluation")
    if not files.is_dir(place):
        return [place]
    found: list[files.StrPath] = [
        place / name for name in files.names_in(place) if name.endswith(".jsonl")
    ]
    if not found:
        raise ConfigError(f"{place}: has no .jsonl file; allowed: evaluation rows")
    return found


def bundled(name: str) -> str:
    """The path of a file, or directory, of the domain that is installed with the package."""
    return str(Path(bundled_domain.__file__).parent / name)
