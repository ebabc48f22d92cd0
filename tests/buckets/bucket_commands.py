"""Commands that know no storage server but the one on loopback."""

from __future__ import annotations

import os
from pathlib import Path

from disturbed_runs import Server


def environment(url: str) -> dict[str, str]:
    """What makes gcsfs and TensorStore take a server for Google's."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
    }


class Commands:
    """Runs commands in an empty directory, with an empty home and an empty place for temporaries.

    Attributes:
        places: the three directories.
    """

    def __init__(self, server: Server, url: str, root: Path) -> None:
        self._server, self._url, self._root = server, url, root
        self.places = {name: root / name for name in ("cwd", "home", "tmp")}
        for place in self.places.values():
            place.mkdir()

    def start(self, command: str, *arguments: str) -> int:
        """Starts a command; returns the process's id."""
        places = {"HOME": str(self.places["home"]), "TMPDIR": str(self.places["tmp"])}
        return self._server.start_command(
            command,
            list(arguments),
            str(self._root / "log"),
            environment=environment(self._url) | places,
            directory=str(self.places["cwd"]),
        )

    def finish(self) -> int:
        """Waits for the command; returns its exit status."""
        return self._server.exit_code()

    def run(self, command: str, *arguments: str) -> str:
        """Runs a command that succeeds; returns what it said."""
        self.start(command, *arguments)
        assert self.finish() == 0, self.log()
        return self.log()

    def log(self) -> str:
        """What the commands said, all of them."""
        return (self._root / "log").read_text()

    def strays(self) -> list[str]:
        """Files that the commands left on the local disk, matplotlib's list of fonts aside."""
        return [
            str(Path(folder, name))
            for place in self.places.values()
            for folder, _, names in os.walk(place)
            for name in names
            if Path(folder).name != "matplotlib"
        ]
