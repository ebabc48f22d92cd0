"""One writer per directory, one way of dividing a study among its processes, one maker of a cache.

The operating system drops a lock with its holder, even after `kill -9`, so a stale lock file never
blocks a restart. Object stores (`gs://...`) have no locks, nor have some file systems (Lustre
without `-o flock`, gcsfuse): on the former nothing is locked, on the latter a line says so.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from mixtures.errors import warn_once
from t5x_ext.errors import ConfigError


class DirectoryInUse(ConfigError):
    """Another process holds the directory."""


class DirectoryLock:
    """Holds a directory for this process until `release`, or until the process dies."""

    def __init__(self, directory: str | os.PathLike[str], name: str = "MODEL_DIR") -> None:
        """Takes the lock.

        Args:
            directory: Created if absent.
            name: What messages call it.

        Raises:
            DirectoryInUse: If another process holds it.
            ConfigError: If nothing can be written there.
        """
        self._file = _open(directory, name)
        if self._file and not _lock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            holder = _read(self._file)
            self.release()
            raise DirectoryInUse(
                f"{name} {directory} is in use by another run ({holder or 'starting'});"
                " wait for it, stop it, or choose another directory"
            )
        _write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n")

    def is_in_place(self) -> bool:
        """Whether the directory is still the one that was locked, by its name.

        It is not once its disk is unmounted, or once it is moved or deleted. Writing to the name
        would then begin a new directory, on whatever disk is there.
        """
        if self._file is None:
            return True
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._file.name))
        except OSError:
            return False

    def release(self) -> None:
        """Gives the directory free. Does nothing the second time."""
        if self._file is not None:
            self._file.close()
            self._file = None


class ShardLock:
    """Holds one of `count` parts of a directory's work, while nobody divides it otherwise.

    All processes at work hold a common lock together, whose file says into how many parts the work
    is divided: with another number, two processes would do the same cells. Whoever has that lock
    alone may change the number.
    """

    def __init__(self, directory: str | os.PathLike[str], index: int, count: int) -> None:
        """Takes both locks.

        Args:
            directory: Created if absent.
            index: Which part, from 0.
            count: Number of parts.

        Raises:
            DirectoryInUse: If another process has this part, or the work is divided otherwise.
            ConfigError: If nothing can be written there.
        """
        self._common = _open(directory)
        self._part: DirectoryLock | None = None
        if self._common and _lock(self._common, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _write(self._common, f"{count}\n")
        try:
            if self._common:
                _lock(self._common, fcntl.LOCK_SH)  # waits for one that is writing the number
                found = _read(self._common)
                if found != str(count):
                    raise DirectoryInUse(
                        f"MODEL_DIR {os.path.dirname(directory)} is in use by other jobs that"
                        f" divide it into {found or 'another number of'} shards, not {count};"
                        " give all jobs the same N in --shard=I/N, or wait for the others"
                    )
            self._part = DirectoryLock(os.path.join(directory, f"{index + 1}-of-{count}"))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Gives the part free. Does nothing the second time."""
        if self._part is not None:
            self._part.release()
        if self._common is not None:
            self._common.close()
            self._common = None


def hold(file: str | os.PathLike[str]) -> tuple[TextIO, bool]:
    """Holds a file of any name until it is closed, after whoever holds it now.

    Returns:
        The file, and whether it is held: False where the file system has no locks.

    Raises:
        OSError: If it cannot be opened.
    """
    opened = open(file, "a", encoding="utf-8")
    return opened, bool(_take(opened, fcntl.LOCK_EX))


def _open(directory: str | os.PathLike[str], name: str = "MODEL_DIR") -> TextIO | None:
    """Opens the lock file of a directory; None in a bucket."""
    if "://" in str(directory):
        return None
    path = Path(directory) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{name} {directory}: cannot be written to ({error.strerror}); allowed: a "
            "directory that is writable or can be created"
        ) from None


def _lock(file: TextIO, kind: int) -> bool:
    """Takes a lock if it is free, and says whether it was; True if there are no locks."""
    return _take(file, kind) is not False


def _take(file: TextIO, kind: int) -> bool | None:
    """Whether a lock was taken; None if there are no locks."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        warn_once(
            f"{os.path.dirname(file.name)}: its file system has no locks ({error.strerror}), so"
            " nothing stops a second run from writing there"
        )
        return None
    return True


def _read(file: TextIO) -> str:
    file.seek(0)
    return file.read(200).strip()


def _write(file: TextIO | None, text: str) -> None:
    if file is not None:
        file.truncate(0)
        file.write(text)
        file.flush()
