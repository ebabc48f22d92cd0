"""Who is there: the processes of a run find each other, and name who is missing.

Process 0 listens on the coordinator's port until everybody has called (JAX's own service takes the
port over afterwards); the connections then become the star of `peers`. JAX names nobody when a
process is missing at the start.

The port is open to whoever reaches it, so a caller has to prove that it knows the run's id, within
a few seconds and a few kilobytes; all callers are heard at the same time.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import selectors
import socket
import time
from collections.abc import Mapping
from typing import Any

from t5x_ext.errors import ConfigError
from t5x_ext.multihost.peers import Connection, Peers, parse_message, to_line

RUN_ID = "T5X_EXT_RUN_ID"
_JOB_IDS = (RUN_ID, "SLURM_JOB_ID", "OMPI_MCA_ess_base_jobid")

_HELLO_SECS = 10.0
_HELLO_BYTES = 4096
_STRANGERS = 64  # callers heard at a time, besides as many as there are processes
_RETRY_SECS = 0.2
_DIFFERENT_RUN = (
    f"process 0 belongs to another run; allowed: the same {RUN_ID} (or job) and port of "
    "coordinator_address on every host"
)


def run_key(address: str) -> bytes:
    """What all processes of a run know, and no other: the key of their proofs.

    It is a secret only where the variable T5X_EXT_RUN_ID is. Without it the job's number, if there
    is one, and the coordinator's port keep runs apart that take each other's port by mistake.
    """
    job = next((os.environ[name] for name in _JOB_IDS if os.environ.get(name)), "")
    port = address.rpartition(":")[2]
    return hashlib.sha256(f"t5x_ext\n{job}\n{port}".encode()).digest()


def port_of(setting: str, address: str) -> int:
    """The port of an address.

    Raises:
        ConfigError: It is not host:port, or there can be no such port; names the setting.
    """
    _, colon, port = address.rpartition(":")
    if not (colon and re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        raise ConfigError(f"{setting}: {address!r}; allowed: host:port, with a port of 1 to 65535")
    return int(port)


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
        ConfigError: a process is missing (its number is named), two have one number, or they are
            not of one run.
    """
    key = run_key(address)
    if index:
        return _join(address, index, count, timeout_secs, silence_secs, key)
    with _listen(address, count) as listener:
        roll = _Roll(listener, count, key)
        problem = roll.complete(timeout_secs)
    names = [host for _, host in sorted(roll.hosts.items())]
    answer = {"problem": problem, "hosts": names}
    peers = {number: Connection(one) for number, one in roll.joined.items()}
    for peer in peers.values():
        try:
            peer.send(answer)
        except OSError:
            pass  # gone already, which its watcher will notice
    if problem:
        raise ConfigError(problem)
    return Peers(0, names, peers, silence_secs)


class _Caller:
    """A connection that has not yet proved who it is."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.deadline = time.monotonic() + _HELLO_SECS
        self.nonce = secrets.token_hex(16)
        self._said = b""
        connection.send(to_line({"nonce": self.nonce}))

    def hear(self) -> dict[str, Any] | None:
        """What came so far, as a message; None as long as its line is not complete.

        Raises:
            ValueError: it is not a hello, is too long, or the connection has ended.
            OSError: the connection broke.
        """
        more = self.socket.recv(_HELLO_BYTES)
        self._said += more
        if not more or len(self._said) > _HELLO_BYTES:
            raise ValueError("no hello")
        if b"\n" not in self._said:
            return None
        message = parse_message(self._said)
        if message is None or not _is_hello(message):
            raise ValueError("no hello")
        return message


class _Roll:
    """Process 0's list of who has called.

    Attributes:
        hosts: host names by process number.
        joined: connections by process number.
    """

    def __init__(self, listener: socket.socket, count: int, key: bytes) -> None:
        self.hosts = {0: socket.gethostname()}
        self.joined: dict[int, socket.socket] = {}
        self._listener, self._count, self._key = listener, count, key
        self._callers: list[_Caller] = []
        self._refused = 0

    def complete(self, timeout_secs: float) -> str:
        """Hears callers until all processes are there; returns why they are not, '' if they are."""
        end = time.monotonic() + timeout_secs
        problem = ""
        with selectors.DefaultSelector() as events:
            self._listener.setblocking(False)
            events.register(self._listener, selectors.EVENT_READ)
            while len(self.hosts) < self._count and not problem:
                now = time.monotonic()
                if now >= end:
                    problem = self._missing(timeout_secs)
                for caller in [one for one in self._callers if one.deadline <= now]:
                    self._drop(caller, events)
                until = min([end, *(one.deadline for one in self._callers)])
                for key, _ in events.select(max(until - now, 0)):
                    if key.fileobj is self._listener:
                        self._admit(events)
                    elif key.data in self._callers:
                        problem = problem or self._hear(key.data, events)
            for caller in list(self._callers):
                self._drop(caller, events)
        return problem

    def _admit(self, events: selectors.BaseSelector) -> None:
        try:
            caller = _Caller(self._listener.accept()[0])
        except OSError:
            return  # gone before it was heard
        self._callers.append(caller)
        events.register(caller.socket, selectors.EVENT_READ, caller)
        if len(self._callers) > self._count + _STRANGERS:
            self._drop(self._callers[0], events)

    def _hear(self, caller: _Caller, events: selectors.BaseSelector) -> str:
        """Takes in what a caller says; returns what is wrong with the run, '' for nothing."""
        try:
            hello = caller.hear()
        except BlockingIOError:
            return ""
        except (OSError, ValueError):
            self._drop(caller, events)
            return ""
        if hello is None:
            return ""
        if not hmac.compare_digest(hello["proof"], _proof(self._key, caller.nonce, hello)):
            self._refused += 1
            self._drop(caller, events, _DIFFERENT_RUN)
            return ""
        problem = self._objection(hello)
        if problem:
            self._drop(caller, events, problem)
            return problem
        number, host = hello["index"], hello["host"]
        self._callers.remove(caller)
        events.unregister(caller.socket)
        caller.socket.setblocking(True)
        self.hosts[number], self.joined[number] = host, caller.socket
        return ""

    def _objection(self, hello: Mapping[str, Any]) -> str:
        """Why a process of this run cannot join it; '' for nothing."""
        number, host = hello["index"], hello["host"]
        if hello["count"] != self._count:
            return (
                f"process_count: {hello['count']} on process {number} ({host}), {self._count} on "
                f"process 0 ({self.hosts[0]}); allowed: the same on every host"
            )
        if number in self.hosts:
            return f"process_index: {number} is taken twice, by {self.hosts[number]} and {host}"
        if not 0 < number < self._count:
            return f"process_index: {number} ({host}); allowed: 0 to {self._count - 1}"
        return ""

    def _drop(self, caller: _Caller, events: selectors.BaseSelector, problem: str = "") -> None:
        self._callers.remove(caller)
        events.unregister(caller.socket)
        try:
            if problem:
                caller.socket.send(to_line({"problem": problem, "hosts": []}))
        except OSError:
            pass  # gone already
        caller.socket.close()

    def _missing(self, timeout_secs: float) -> str:
        absent = [str(number) for number in range(self._count) if number not in self.hosts]
        kind = "process" if len(absent) == 1 else "processes"
        others = f"; callers of other runs, refused (see {RUN_ID}): {self._refused}"
        return (
            f"{kind} {', '.join(absent)} missing: {len(self.hosts)} of {self._count} have started "
            f"within {timeout_secs:g} s{others if self._refused else ''}"
        )


def _is_hello(message: Mapping[str, Any]) -> bool:
    """Whether a message has the fields of a hello, of their types."""
    types = {"index": int, "count": int, "host": str, "proof": str}
    if message.keys() != types.keys():
        return False
    fits = all(type(message[name]) is kind for name, kind in types.items())
    return fits and message["host"].isprintable() and message["proof"].isascii()


def _proof(key: bytes, nonce: str, hello: Mapping[str, Any]) -> str:
    """What only a process of the run can say to this question."""
    text = f"{nonce}\n{hello['index']}\n{hello['count']}\n{hello['host']}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _join(
    address: str, index: int, count: int, timeout_secs: float, silence_secs: float, key: bytes
) -> Peers:
    nobody = ConfigError(
        f"process 0 is missing: nobody answered at {address} within {timeout_secs:g} s "
        f"(coordinator_address; this is process {index} of {count})"
    )
    connection = _connect(address, timeout_secs)
    if connection is None:
        raise nobody
    # Process 0 may have been started later, and has the same time from then on.
    connection.settimeout(timeout_secs + _HELLO_SECS)
    peer = Connection(connection)
    try:
        question = peer.receive() or {}
        hello = {"index": index, "count": count, "host": socket.gethostname()}
        peer.send(hello | {"proof": _proof(key, question["nonce"], hello)})
        answer = peer.receive() or {}
        problem, hosts = answer["problem"], answer["hosts"]
    except (OSError, KeyError):
        raise nobody from None
    if problem:
        raise ConfigError(str(problem))
    return Peers(index, hosts, {0: peer}, silence_secs)


def _connect(address: str, timeout_secs: float) -> socket.socket | None:
    """A connection to process 0; None if nobody has listened within this time."""
    host = address.rpartition(":")[0]
    port = port_of("coordinator_address", address)
    deadline = time.monotonic() + timeout_secs
    while True:
        try:
            return socket.create_connection((host.strip("[]"), port), timeout_secs)
        except OSError:
            if time.monotonic() > deadline:
                return None
            time.sleep(_RETRY_SECS)


def _listen(address: str, count: int) -> socket.socket:
    """Listens where JAX's service will: on all interfaces, unless its variable says otherwise.

    A coordinator on this host's loopback is listened for there only.
    """
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in ("localhost", "127.0.0.1", "::1"):
        host = ""
    variable = "JAX_COORDINATOR_BIND_ADDRESS"
    bound = os.environ.get(variable, f"{host}:{port}")
    number = port_of(variable, bound)
    host = bound.rpartition(":")[0].strip("[]")
    dual = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, number), family=family, backlog=count + _STRANGERS, dualstack_ipv6=dual
        )
    except OSError as error:
        raise ConfigError(
            f"coordinator_address: cannot listen on {host}:{number} ({error.strerror}); allowed: a "
            "free port of process 0's host"
        ) from None
