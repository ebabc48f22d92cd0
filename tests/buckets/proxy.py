"""A proxy on loopback that answers in the server's place, cuts connections or takes its time."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CUT = -1  # an answer: the connection ends without one


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Proxy:
    """Passes requests on to a server.

    Attributes:
        url: its own.
        fault: called with (method, path); returns None to pass a request on, or the status to
            answer with, or `CUT`.
        delay_secs: how long each request waits.
        requests: (method, path) of all requests so far.
    """

    def __init__(self, target: str) -> None:
        self.fault: Callable[[str, str], int | None] = lambda method, path: None
        self.delay_secs = 0.0
        self.requests: list[tuple[str, str]] = []
        proxy, address = self, target.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.requests.append((self.command, self.path))
                time.sleep(proxy.delay_secs)
                status = proxy.fault(self.command, self.path)
                if status == CUT:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                elif status is not None:
                    self._answer(status, {}, f"{status} by the proxy".encode())
                else:
                    upstream = http.client.HTTPConnection(address)
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    answer = upstream.getresponse()
                    headers = dict(answer.getheaders())
                    self._answer(answer.status, headers, answer.read())
                    upstream.close()

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                is_head = self.command == "HEAD"
                length = headers.get("Content-Length", "0") if is_head else str(len(body))
                self.send_header("Content-Length", length)
                self.end_headers()
                if not is_head:
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _pass_on

            def log_message(self, *arguments: object) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None:
                """Says nothing of clients that hang up, as killed ones do."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
