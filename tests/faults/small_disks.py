"""Real file systems that fill up, become read-only or vanish, where mounting is allowed."""

from __future__ import annotations

import functools
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@functools.cache
def may_mount() -> bool:
    """Whether this process may mount a file system."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with SmallDisk(Path(directory) / "disk", 1):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


class SmallDisk:
    """A tmpfs that is seen at `path`, and can be taken away from there and come back."""

    def __init__(self, path: Path, megabytes: int) -> None:
        """Mounts it."""
        self.path = path
        self._device = path.with_name(f"{path.name}.device")
        for directory in (self.path, self._device):
            directory.mkdir(exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(self._device))
        self.attach()

    def fill(self) -> None:
        """Takes all the room that is left."""
        with (self._device / "ballast").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 12)):
                    pass
            except OSError:
                pass

    def free(self) -> None:
        """Gives the room back."""
        (self._device / "ballast").unlink(missing_ok=True)

    def attach(self) -> None:
        """Shows it at `path`."""
        _mount("--bind", str(self._device), str(self.path))

    def forbid_writing(self) -> None:
        """Shows it read-only, until `detach`, to whoever does not have a file open already."""
        self.attach()
        for attempt in range(100):
            try:
                _mount("-o", "remount,bind,ro", str(self.path))
                return
            except subprocess.CalledProcessError:  # busy: a file was opened in between
                if attempt == 99:
                    raise
                time.sleep(0.02)

    def detach(self) -> None:
        """Takes away what was attached last, under whoever uses it."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True, capture_output=True)

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self.path.is_mount():
            self.detach()
        subprocess.run(["umount", "--lazy", str(self._device)], check=True, capture_output=True)
