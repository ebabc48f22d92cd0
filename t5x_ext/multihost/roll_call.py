"""Lines of JSON between the processes of one run: who is there, and who is gone.

Process 0 is the middle of a star. It listens on the coordinator's port until everybody is there
(JAX's own service takes the port over afterwards); the connections stay open, and each end notices
when the other dies. JAX notices as well, but it names nobody when a process is missing at the
start, and it ends a process with a C++ stack trace.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from t5x_ext.errors import ConfigError
from t5x_ext.terminal import note

_HELLO_SECS = 10.0  # what a stranger that connects and says nothing may cost
_RETRY_SECS = 0.2

# Taken and never given back: the first to end the process has the last word.
_last_word = threading.Lock()


class _Peer:
    """A connection to another process."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends one message; {} only shows that this process is alive."""
        with self._sending:
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message, or None where the connection has ended or what came is none.

        Raises:
            TimeoutError: nothing came within the socket's timeout.
        """
        try:
            message = json.loads(self._lines.readline())
        except TimeoutError:
            raise
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Ends the connection."""
        self._lines.close()
        self.socket.close()


class Peers:
    """The other processes of a run, watched: when one is gone, this process ends.

    Attributes:
        index: this process's number.
        hosts: host name of each process, by number.
    """

    def __init__(
        self, index: int, hosts: list[str], peers: dict[int, _Peer], silence_secs: float
    ) -> None:
        """Starts watching.

        Args:
            index: this process's number.
            hosts: host name of each process.
            peers: all others on process 0; process 0 on the others.
            silence_secs: a process that sends nothing for so long counts as gone. One that is
                killed is noticed at once.
        """
        self.index, self.hosts = index, hosts
        self._peers = peers
        self._silence_secs = silence_secs
        self._closed = threading.Event()
        for number, peer in peers.items():
            peer.socket.settimeout(silence_secs)
            threading.Thread(target=self._watch, args=(number, peer), daemon=True).start()
        threading.Thread(target=self._send_heartbeats, daemon=True).start()

    def name(self, number: int) -> str:
        """How messages name a process."""
        return f"process {number} ({self.hosts[number]})"

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value (JSON), by number; every process has to call it."""
        if self.index:
            self._peers[0].send({"value": value})
            return self._peers[0].inbox.get()
        values = [value, *(peer.inbox.get() for _, peer in sorted(self._peers.items()))]
        for peer in self._peers.values():
            peer.send({"value": values})
        return values

    def fail(self, reason: str, status: int) -> NoReturn:
        """Ends this process and, with its reason, all others."""
        _last_word.acquire()
        self._tell(f"{self.name(self.index)} ended: {reason}")
        _exit(status)

    def close(self) -> None:
        """Ends the watch; every process has to call it."""
        for peer in self._peers.values():
            peer.send({"bye": True})
        for peer in self._peers.values():
            peer.inbox.get()
        self._closed.set()
        for peer in self._peers.values():
            peer.close()

    def _watch(self, number: int, peer: _Peer) -> None:
        while True:
            try:
                message = peer.receive()
            except TimeoutError:
                self._end(f"{self.name(number)} is gone: silent for {self._silence_secs:g} s")
            if message is None:
                self._end(f"{self.name(number)} is gone: its connection ended; see its output")
            if "gone" in message:
                self._end(message["gone"])
            if "value" in message:
                peer.inbox.put(message["value"])
            if "bye" in message:
                peer.inbox.put(None)
                return

    def _end(self, reason: str) -> NoReturn:
        _last_word.acquire()
        # The line comes first: JAX may be about to end this process in its own way.
        note(f"error: {reason}")
        self._tell(reason)
        _exit(1)

    def _tell(self, reason: str) -> None:
        for peer in self._peers.values():
            try:
                peer.send({"gone": reason})
            except OSError:
                pass  # gone already

    def _send_heartbeats(self) -> None:
        while not self._closed.wait(self._silence_secs / 4):
            for peer in self._peers.values():
                try:
                    peer.send({})
                except OSError:
                    pass  # whoever reads from it ends the process


def call_roll(
    address: str, index: int, count: int, timeout_secs: float, silence_secs: float
) -> Peers:
    """Waits until all processes of the run are there.

    Args:
        address: host:port of process 0.
        index: this process's number.
        count: number of processes.
        timeout_secs: how long to wait for the last.
        silence_secs: see `Peers`.

    Raises:
        ConfigError: a process is missing (its number is named), two have one number, or they
            disagree on how many they are.
    """
    if index:
        return _join(address, index, count, timeout_secs, silence_secs)
    callers: list[_Peer] = []
    peers: dict[int, _Peer] = {}
    hosts = {0: socket.gethostname()}
    problem = ""
    deadline = time.monotonic() + timeout_secs
    with _listen(address, count) as listener:
        while len(hosts) < count and not problem:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                peer = _Peer(listener.accept()[0])
            except TimeoutError:
                problem = _missing(hosts, count, timeout_secs)
                break
            hello = _hello_from(peer)
            if hello is None:
                peer.close()  # a stranger
                continue
            callers.append(peer)
            problem = _objection(hello, hosts, count)
            if not problem:
                peers[hello["index"]] = peer
                hosts[hello["index"]] = hello["host"]
    names = [host for _, host in sorted(hosts.items())]
    for peer in callers:
        try:
            peer.send({"problem": problem, "hosts": names})
        except OSError:
            pass  # gone already, which its watcher will notice
    if problem:
        raise ConfigError(problem)
    return Peers(0, names, peers, silence_secs)


def _join(address: str, index: int, count: int, timeout_secs: float, silence_secs: float) -> Peers:
    host, _, port = address.rpartition(":")
    nobody = ConfigError(
        f"process 0 is missing: nobody answered at {address} within {timeout_secs:g} s "
        f"(coordinator_address; this is process {index} of {count})"
    )
    deadline = time.monotonic() + timeout_secs
    while True:
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout_secs)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise nobody from None
            time.sleep(_RETRY_SECS)
    # Process 0 may have been started later, and has the same time from then on.
    connection.settimeout(timeout_secs + _HELLO_SECS)
    peer = _Peer(connection)
    peer.send({"index": index, "count": count, "host": socket.gethostname()})
    try:
        answer = peer.receive()
    except TimeoutError:
        answer = None
    if answer is None:
        raise nobody
    if answer["problem"]:
        raise ConfigError(answer["problem"])
    return Peers(index, answer["hosts"], {0: peer}, silence_secs)


def _listen(address: str, count: int) -> socket.socket:
    """Listens where JAX's service will: on all interfaces, unless its variable says otherwise."""
    host, _, port = os.environ.get(
        "JAX_COORDINATOR_BIND_ADDRESS", f":{address.rpartition(':')[2]}"
    ).rpartition(":")
    host = host.strip("[]")
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, int(port)), family=family, backlog=count, dualstack_ipv6=dual
        )
    except OSError as error:
        raise ConfigError(
            f"coordinator_address: cannot listen on {host}:{port} ({error.strerror}); allowed: a "
            "free port of process 0's host"
        ) from None


def _hello_from(peer: _Peer) -> dict[str, Any] | None:
    peer.socket.settimeout(_HELLO_SECS)
    try:
        hello = peer.receive()
    except TimeoutError:
        return None
    return hello if hello and {"index", "count", "host"} <= hello.keys() else None


def _objection(hello: Mapping[str, Any], hosts: Mapping[int, str], count: int) -> str:
    """What is wrong with a process that has called; '' for nothing."""
    number, host = hello["index"], hello["host"]
    if hello["count"] != count:
        return (
            f"process_count: {hello['count']} on process {number} ({host}), {count} on process 0 "
            f"({hosts[0]}); allowed: the same on every host"
        )
    if number in hosts:
        return f"process_index: {number} is taken twice, by {hosts[number]} and {host}"
    return ""


def _missing(hosts: Mapping[int, str], count: int, timeout_secs: float) -> str:
    absent = [str(number) for number in range(count) if number not in hosts]
    kind = "process" if len(absent) == 1 else "processes"
    return (
        f"{kind} {', '.join(absent)} missing: {len(hosts)} of {count} have started within "
        f"{timeout_secs:g} s"
    )


def _exit(status: int) -> NoReturn:
    """Ends the process although other threads may be stuck waiting for a process that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
