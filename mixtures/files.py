"""Files on a local disk or in a bucket (`gs://bucket/...`), read and written whole.

A path names an object of Google Cloud Storage where it begins with `gs://`, and a local file
otherwise. What is written appears whole or not at all: the old content, or the new.

Buckets are reached through gcsfs, whatever else is installed; `etils.epath` alone would take
TensorFlow's file system where TensorFlow is there, and behave differently where it is not. gcsfs
tries again by itself, for about half a minute, when the server is busy (429), fails (5xx) or drops
the connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import stat
import sys
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from mixtures.errors import DataError

StrPath = str | os.PathLike[str]

_GS = "gs://"
_MAX_PATH = 4000  # bytes; Linux takes 4,095
ENDLESS = "a pipe, socket or device, not a regular file"
# Open files of this process under their names, such as standard output.
_OPEN_FILES = {"/dev/stdout": 1, "/dev/stderr": 2}
_NUMBERED = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})")
# Packages whose exceptions are about a bucket.
_CLIENTS = ("gcsfs", "aiohttp", "google.auth", "google.api_core", "requests", "fsspec")
_CREDENTIALS = (
    "the account is that of `gcloud auth application-default login`, "
    "GOOGLE_APPLICATION_CREDENTIALS or the machine"
)


class BucketError(OSError):
    """A bucket cannot be reached or refuses; has `filename` and, as `strerror`, one line."""


def path(value: StrPath, name: str = "path") -> epath.Path:
    """Checks a path and opens the way to its bucket; nothing is looked up.

    Args:
        value: A local path, in which `~` is the home directory, or `gs://bucket/...`.
        name: The setting it comes from, for messages.

    Raises:
        DataError: If no file can have it: it is no text, empty, too long, has NUL characters,
            begins with another scheme than `gs://`, or with the home directory of nobody.
    """
    if not isinstance(value, str | os.PathLike):
        raise DataError(f"{name}: {value!r:.60}; allowed: a path")
    text = os.fspath(value)
    scheme, separator, rest = text.partition("://")
    if not text.strip():
        raise DataError(f"{name}: {text!r}; allowed: a path (is a shell variable unset?)")
    if "\0" in text:
        raise DataError(f"{name}: {text!r}; allowed: a path without NUL characters")
    if separator and (scheme != "gs" or not rest.partition("/")[0]):
        raise DataError(f"{name}: {text!r}; allowed: a local path, or gs://bucket/...")
    if text.startswith("gs:/") and not separator:
        raise DataError(
            f"{name}: {text!r}; allowed: gs:// with two slashes (pathlib.Path drops one)"
        )
    if separator:
        _prepare_buckets()
    elif not _is_nameable(text):
        raise DataError(f"{name}: {text[:60]!r}...; allowed: a path with names up to 255 bytes")
    found = os.path.expanduser(text)
    if found.startswith("~"):
        user = text.partition("/")[0]
        raise DataError(f"{name}: {text!r}; allowed: a path ({user!r}: no such user)")
    return epath.Path(found)


def _is_nameable(text: str) -> bool:
    """Whether a file system takes a path of this length and these characters."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return len(encoded) <= _MAX_PATH and max(map(len, encoded.split(b"/"))) <= 255


def local_path(value: StrPath, name: str = "path") -> epath.Path:
    """As `path`, for what has to lie on a local disk.

    Raises:
        DataError: If it is empty, or in a bucket.
    """
    if is_remote(value):
        raise DataError(f"{name}: {os.fspath(value)!r}; allowed: a local path")
    return path(value, name)


def is_remote(value: StrPath) -> bool:
    """Whether a path lies in a bucket."""
    return os.fspath(value).startswith(_GS)


def read_bytes(file: StrPath) -> bytes:
    """The content of a file.

    Raises:
        OSError: If it cannot be read; `filename` and `strerror` are set.
    """
    if is_remote(file):
        with _requests(file):
            return bucket_files().cat_file(os.fspath(file))
    if is_endless(file):
        raise OSError(errno.EINVAL, ENDLESS, os.fspath(file))
    with open(file, "rb") as opened:
        return opened.read()


def read_lines(file: StrPath) -> Iterator[bytes]:
    """The lines of a file with their ends, read when they are asked for; `\\n` alone ends a line.

    Raises:
        OSError: If it cannot be read; `filename` and `strerror` are set.
    """
    if is_remote(file):
        with _requests(file), bucket_files().open(os.fspath(file), "rb") as opened:
            yield from opened
        return
    if is_endless(file):
        raise OSError(errno.EINVAL, ENDLESS, os.fspath(file))
    with open(file, "rb") as opened:
        yield from opened


def is_endless(file: StrPath) -> bool:
    """Whether a local path is a named pipe, which would be waited for, or a device without an end.

    Raises:
        OSError: If there is no such file.
    """
    file = os.fspath(file)
    if file in ("/dev/stdin", os.devnull) or _NUMBERED.fullmatch(file):
        return False
    mode = os.stat(file).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def write_bytes(file: StrPath, content: bytes) -> None:
    """Writes a file whole or not at all, and the directories above it.

    A symbolic link is followed. What is not a regular file, such as /dev/stdout or a pipe, is
    written to and stays what it is.

    Raises:
        OSError: If it cannot be written; `filename` and `strerror` are set.
    """
    if is_remote(file):
        with _requests(file):  # an object appears when its upload is complete
            bucket_files().pipe_file(os.fspath(file), content)
        return
    stream = _open_stream(os.fspath(file))
    if stream is None:
        _replace(os.path.realpath(file), content)
    else:
        with open(stream, "wb") as opened:
            opened.write(content)


def remove(file: StrPath) -> None:
    """Removes a file if there is one."""
    with contextlib.suppress(FileNotFoundError):
        if is_remote(file):
            with _requests(file):
                bucket_files().rm_file(os.fspath(file))
        else:
            os.remove(file)


def is_file(file: StrPath) -> bool:
    """Whether there is a file, or object, of this name."""
    if is_remote(file):
        return _kind(file) == "file"
    return os.path.isfile(file)


def is_dir(directory: StrPath) -> bool:
    """Whether there is such a directory; in a bucket, whether any object's name begins so."""
    if is_remote(directory):
        return _kind(directory) == "directory"
    return os.path.isdir(directory)


def names_in(directory: StrPath) -> list[str]:
    """Names of the files and directories in a directory, sorted; empty if it does not exist."""
    try:
        if is_remote(directory):
            with _requests(directory):
                found = bucket_files().ls(os.fspath(directory), detail=False)
            names = {os.path.basename(name.rstrip("/")) for name in found}
            # Some tools make an object of the directory's own name.
            return sorted(names - {os.path.basename(os.fspath(directory).rstrip("/"))})
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def bucket_files() -> Any:
    """The gcsfs file system, connected at first use."""
    import fsspec

    _prepare_buckets()
    return fsspec.filesystem("gcs")


def bucket_problem(error: BaseException) -> str | None:
    """What an exception of a storage client says, in one line; None if it is not of one."""
    modules = {cls.__module__ for cls in type(error).__mro__}
    is_refusal = isinstance(error, OSError) and str(error).startswith("Forbidden")
    if isinstance(error, BucketError):
        return str(error.strerror)
    if not is_refusal and not any(m.startswith(_CLIENTS) for m in modules):
        return None
    reason = " ".join(str(error).split()) or type(error).__name__
    if is_refusal or getattr(error, "code", None) in (401, 403) or "google.auth" in str(modules):
        reason = f"{reason[:300]}; {_CREDENTIALS}"
    return reason[:500]


@functools.cache
def _prepare_buckets() -> None:
    """Makes epath, Orbax and this module reach buckets in one and the same way.

    Listings are not kept: other machines write too. What gcsfs asks about the kind of a bucket, by
    gRPC and for up to a minute, is left out. Its log would show a traceback for each failure that
    is then raised, too.
    """
    os.environ.setdefault("EPATH_USE_TF", "false")
    # epath remembers its first answer, and TensorFlow Datasets may have asked before us.
    epath.gpath._is_tf_installed.cache_clear()
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec.config

    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


def _kind(file: StrPath) -> str | None:
    """'file', 'directory', or None if there is nothing.

    gcsfs' own `isdir` says no where it is refused, too: a run that may not see its checkpoints
    would begin again.
    """
    try:
        with _requests(file):
            return bucket_files().info(os.fspath(file))["type"]
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _requests(file: StrPath) -> Iterator[None]:
    """Turns whatever a storage client raises into an OSError with the file's name and one line."""
    name = os.fspath(file)
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such object or bucket", name) from None
    except Exception as error:
        reason = bucket_problem(error) or f"{type(error).__name__}: {error}"
        raise BucketError(errno.EIO, reason, name) from error


def is_standard_output(file: StrPath) -> bool:
    """Whether a path is a name of this process's standard output."""
    return _number_of(os.fspath(file)) == 1


def _number_of(file: str) -> int | None:
    """The number of the open file that a path names; None of other paths."""
    numbered = _NUMBERED.fullmatch(file)
    return int(numbered[1]) if numbered else _OPEN_FILES.get(file)


def _open_stream(file: str) -> int | None:
    """Opens what can be written to but not replaced; None for regular files and new ones."""
    number = _number_of(file)
    if number is not None:  # redirected to a file, it continues at the file's present end
        streams = {1: sys.stdout, 2: sys.stderr}
        if number in streams and streams[number] is None:
            # Closed when the process began, its number may be another file's by now.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), file)
        if sys.stdout is not None:
            sys.stdout.flush()
        try:
            return os.dup(number)
        except OSError as error:
            raise OSError(error.errno, error.strerror, file) from None
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return os.open(file, os.O_WRONLY)


def _replace(file: str, content: bytes) -> None:
    """Writes under a temporary name next to the file, then takes the file's place."""
    directory = os.path.dirname(file)
    # Random: containers that share a disk may share process ids and host names too. Without the
    # file's own name, which may be as long as names can be.
    temporary = os.path.join(directory, f".{uuid.uuid4().hex}.tmp")
    try:
        os.makedirs(directory, exist_ok=True)
        with open(temporary, "xb") as opened:
            opened.write(content)
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(file).st_mode))
        os.replace(temporary, file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from None
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)
