"""Lines of JSON between the processes of one run, by which each notices when another is gone.

Process 0 is the middle of a star. JAX notices as well, but names nobody, and ends the process with
a C++ stack trace. Who may be in the star is decided by `roll_call`.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

from t5x_ext.terminal import note

# No message is longer: the largest are the predictions that a resumed run has already.
_MESSAGE_BYTES = 1 << 28

# Taken and never given back: the first to end the process has the last word.
_last_word = threading.Lock()


def to_line(message: Mapping[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"


def parse_message(line: bytes) -> dict[str, Any] | None:
    """The message of a line; None unless it is a whole line and a JSON object."""
    try:
        message = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


class Connection:
    """A connection to another process of this run."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends one message; {} only shows that this process is alive."""
        with self._sending:
            self.socket.sendall(to_line(message))

    def receive(self) -> dict[str, Any] | None:
        """The next message; None if the connection has ended, or sent something else.

        Raises:
            TimeoutError: nothing came within the socket's timeout.
        """
        try:
            return parse_message(self._lines.readline(_MESSAGE_BYTES))
        except TimeoutError:
            raise
        except OSError:
            return None

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
        self, index: int, hosts: list[str], peers: dict[int, Connection], silence_secs: float
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

    def _watch(self, number: int, peer: Connection) -> None:
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


def _exit(status: int) -> NoReturn:
    """Ends the process although other threads may be stuck waiting for a process that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
