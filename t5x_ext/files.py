"""The files of commands: what they read and write, on a local disk or in a bucket.

Built on `mixtures.files`, where reading and writing is described. Here failures are `ConfigError`s,
one line each that names the file, and there is a file that grows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator

from etils import epath

from mixtures import files
from mixtures.errors import DataError
from mixtures.files import StrPath, is_dir, is_file, is_remote, names_in, remove
from t5x_ext.errors import ConfigError
from t5x_ext.terminal import give_up

__all__ = [
    "GrowingFile",
    "StrPath",
    "Unreachable",
    "absolute",
    "is_dir",
    "is_file",
    "is_remote",
    "local_path",
    "names_in",
    "path",
    "read_bytes",
    "read_text",
    "refuse_endless",
    "remove",
    "write_bytes",
    "write_text",
    "writing",
]

_logger = logging.getLogger(__name__)


class Unreachable(ConfigError):
    """A bucket did not answer or refused, which says nothing about what lies there."""


def path(value: StrPath, name: str = "path") -> epath.Path:
    """Checks a path, local or `gs://bucket/...`, without looking it up.

    Args:
        value: The path; `~` is the home directory.
        name: The setting it comes from, for messages.

    Raises:
        ConfigError: If it is empty, or begins with another scheme than `gs://`.
    """
    try:
        return files.path(value, name)
    except DataError as error:
        raise ConfigError(str(error)) from None


def absolute(value: StrPath, name: str = "path") -> epath.Path:
    """As `path`; a local one begins at the root, as Orbax and TensorStore want it.

    The method of `epath` takes `gs://` for a directory below the working directory.
    """
    checked = path(value, name)
    return checked if is_remote(checked) else checked.absolute()


def local_path(value: StrPath, name: str = "path") -> epath.Path:
    """As `path`, for what has to lie on a local disk.

    Raises:
        ConfigError: If it is empty, or in a bucket.
    """
    try:
        return files.local_path(value, name)
    except DataError as error:
        raise ConfigError(str(error)) from None


def read_bytes(file: StrPath) -> bytes:
    """The content of a file.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        return files.read_bytes(file)
    except files.BucketError as error:
        raise Unreachable(f"{os.fspath(file)}: cannot be read ({_reason(error)})") from None
    except OSError as error:
        raise ConfigError(f"{os.fspath(file)}: cannot be read ({_reason(error)})") from None


def read_text(file: StrPath) -> str:
    """The content of a UTF-8 file; a byte order mark at its beginning is dropped.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        return read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{os.fspath(file)}: not UTF-8 ({error.reason} at byte {error.start})"
        ) from None


def refuse_endless(file: StrPath) -> None:
    """For files that are opened by other means than `read_bytes`, which does this itself.

    Raises:
        ConfigError: If it is a named pipe or a device, which would be read for ever.
        OSError: If there is no such file on a local disk.
    """
    if not is_remote(file) and files.is_endless(file):
        raise ConfigError(f"{os.fspath(file)}: cannot be read ({files.ENDLESS})")


def write_bytes(file: StrPath, content: bytes) -> None:
    """Writes a file whole or not at all; see `mixtures.files.write_bytes`.

    Raises:
        ConfigError: If it cannot be written.
    """
    with writing(file):
        files.write_bytes(file, content)


def write_text(file: StrPath, content: str) -> None:
    """Writes a file in UTF-8; see `write_bytes`."""
    write_bytes(file, content.encode("utf-8"))


@contextlib.contextmanager
def writing(file: StrPath) -> Iterator[None]:
    """Names the file, or directory, that its body writes, where that fails.

    The operating system's own error does not: a full disk is noticed at a write, which knows a
    number only.

    Raises:
        ConfigError: If it cannot be written.
        SystemExit: As of `terminal.show`, if it is standard output, which its reader has closed.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) and files.is_standard_output(file):
            give_up(sys.stdout, error)
        raise ConfigError(f"{os.fspath(file)}: cannot be written ({_reason(error)})") from None


class GrowingFile:
    """A file that is added to while a command runs, such as a log.

    On a local disk an addition is with the operating system at once, and outlives the process. An
    object in a bucket cannot be added to: the whole of it is written again, at most once in
    `period_secs`, and at `flush` and `close`. A process that is killed loses what was added since,
    and never what was there. Where the bucket cannot be written for a while, additions are kept,
    a line is logged, and the next writing has them.
    """

    def __init__(
        self,
        file: StrPath,
        keep: Callable[[bytes], bytes] = lambda content: content,
        period_secs: float = 30.0,
    ) -> None:
        """Opens the file, or makes it.

        Args:
            file: Its path.
            keep: What to keep of the content that an earlier run left.
            period_secs: Time between writings to a bucket.

        Raises:
            OSError: If it cannot be written.
        """
        self._path = os.fspath(file)
        self._period_secs = period_secs
        old = files.read_bytes(file) if is_file(file) else b""
        kept = keep(old)
        self._pending: bytearray | None = None
        if is_remote(file):
            self._pending = bytearray(kept)
            self._upload()
        else:
            if kept != old:
                files.write_bytes(file, kept)
            os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
            self._file = open(file, "ab")

    def append(self, content: bytes) -> None:
        """Adds to the end.

        Raises:
            OSError: If a local disk does not take it.
        """
        if self._pending is None:
            self._file.write(content)
            self._file.flush()
            return
        self._pending += content
        self._changed = True
        if time.monotonic() - self._uploaded >= self._period_secs:
            self.flush()

    def flush(self) -> None:
        """Writes what was added since the last time; logs a line where a bucket refuses."""
        try:
            if self._pending is not None and self._changed:
                self._upload()
        except OSError as error:
            self._uploaded = time.monotonic()  # not again at every addition
            _logger.warning("%s: not written (%s); trying again later", self._path, _reason(error))

    def close(self) -> None:
        """Writes what is left. Does nothing the second time.

        Raises:
            OSError: If it cannot be written.
        """
        if self._pending is None:
            self._file.close()
        elif self._changed:
            self._upload()

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _upload(self) -> None:
        assert self._pending is not None  # only files in buckets are uploaded
        files.write_bytes(self._path, bytes(self._pending))
        self._changed = False
        self._uploaded = time.monotonic()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
