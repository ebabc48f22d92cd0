"""One writer per MODEL_DIR."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from t5x_ext.errors import ConfigError


class DirectoryInUse(ConfigError):
    """Another process holds the directory."""


class DirectoryLock:
    """Holds a directory for this process until `release`, or until the process dies.

    The operating system drops the lock with its holder, even after `kill -9`, so a stale lock
    file never blocks a restart. Object stores (`gs://...`) have no locks; there it does nothing.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Takes the lock.

        Args:
            directory: Created if absent.

        Raises:
            DirectoryInUse: If another process holds it.
            ConfigError: If nothing can be written there.
        """
        self._file: TextIO | None = None
        if "://" in str(directory):
            return
        path = Path(directory) / ".lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"MODEL_DIR {directory}: cannot be written to ({error.strerror});"
                " allowed: a directory that can, or can be created"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip()
            file.close()
            raise DirectoryInUse(
                f"MODEL_DIR {directory} is in use by another run ({holder or 'starting'});"
                " wait for it, stop it, or choose another directory"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file

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
