"""Starting together and noticing that one is gone, without JAX: processes on loopback."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from t5x_ext import multihost
from t5x_ext.errors import ConfigError
from t5x_ext.multihost import peers, roll_call
from t5x_ext.multihost.peers import Peers
from t5x_ext.multihost.roll_call import call_roll

REPO = Path(__file__).resolve().parents[2]
HOST = socket.gethostname()
MEMBER = """
import sys, time
from t5x_ext.terminal import exit_status
from t5x_ext.multihost.roll_call import call_roll

def run():
    address, index, count, timeout, silence, stay = sys.argv[1:]
    peers = call_roll(address, int(index), int(count), float(timeout), float(silence))
    print("everyone", peers.gather(int(index) ** 2), flush=True)
    time.sleep(float(stay))
    peers.gather(None)
    peers.close()

sys.exit(exit_status(run))
"""


class Members:
    """Starts members of one run."""

    def __init__(self, monkeypatch) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", self.address)
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, index: int, count: int, timeout=60.0, silence=60.0, stay=0.0
    ) -> subprocess.Popen[str]:
        arguments = [self.address, index, count, timeout, silence, stay]
        member = subprocess.Popen(
            [sys.executable, "-c", MEMBER, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(REPO)},
        )
        self.started.append(member)
        return member


@pytest.fixture
def members(monkeypatch) -> Iterator[Members]:
    made = Members(monkeypatch)
    yield made
    for member in made.started:
        member.kill()
        member.communicate()


def outcome(member: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = member.communicate(timeout=120)
    return member.returncode, out, err


def test_all_gather_whatever_the_order_they_start_in(members: Members) -> None:
    started = [members.start(index, 3) for index in (2, 1, 0)]
    for member in started:
        assert outcome(member) == (0, "everyone [0, 1, 4]\n", "")


def test_a_stranger_on_the_port_is_not_counted(members: Members) -> None:
    first = members.start(0, 2)
    host, port = members.address.split(":")
    for _ in range(600):
        try:
            stranger = socket.create_connection((host, int(port)))
            break
        except OSError:
            time.sleep(0.1)
    stranger.sendall(b"PRI * HTTP/2.0\r\n\r\n")
    second = members.start(1, 2)
    assert outcome(first)[:2] == outcome(second)[:2] == (0, "everyone [0, 1]\n")
    stranger.close()


HELLO = {"index": 1, "count": 2, "host": "h", "proof": "0" * 64}


def call(port: int, *lines: bytes) -> socket.socket:
    """Connects to process 0 and says something."""
    caller = socket.create_connection(("127.0.0.1", port))
    for line in lines:
        caller.sendall(line)
    return caller


def hostile_callers(port: int) -> list[socket.socket]:
    """What must neither join nor keep others from joining."""
    hellos = [HELLO | {"index": index} for index in ([], {}, True, 1.0, None, 99, -1, "1", 10**40)]
    hellos += [HELLO | {"proof": proof} for proof in ("", "\u00e9", None, [], "0" * 5000)]
    hellos += [HELLO | {"host": "a\n\x1b[31m"}, {"index": 1}, {}]
    lines = [json.dumps(hello).encode() + b"\n" for hello in hellos]
    lines += [b"\n", b"null\n", b"[" * 3000 + b"\n", b"\xff\xfe\n", b"GET / HTTP/1.1\r\n\r\n"]
    lines += [b"x" * 100_000]
    callers = [call(port, line) for line in lines]
    callers += [call(port) for _ in range(200)]  # these say nothing
    callers.append(call(port, b'{"index": 1, "cou'))  # this one never ends its line
    gone = call(port)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()  # with a reset
    return callers


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def join_in_threads(
    port: int, indices: Sequence[int], before: Callable[[], None], timeout: float = 60
) -> list[Any]:
    """The rolls, or errors, of processes of a run of two; `before` runs when 0 listens."""

    def one(index: int) -> Any:
        try:
            return call_roll(f"127.0.0.1:{port}", index, 2, timeout, 60)
        except ConfigError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(one, indices[0])
        while True:
            try:
                call(port).close()
                break
            except OSError:
                time.sleep(0.02)
        before()
        others = [pool.submit(one, index) for index in indices[1:]]
        rolls = [each.result() for each in (first, *others)]
        list(pool.map(lambda roll: isinstance(roll, Peers) and roll.close(), rolls))
    return rolls


def test_hostile_callers_neither_join_nor_hold_up_the_run(port: int) -> None:
    strangers: list[socket.socket] = []
    rolls = join_in_threads(port, (0, 1), lambda: strangers.extend(hostile_callers(port)))
    assert [roll.hosts for roll in rolls] == [[HOST, HOST]] * 2
    assert len(strangers) > 200
    for stranger in strangers:
        stranger.close()


def test_a_proof_cannot_be_used_again(port: int) -> None:
    """Each caller has its own question."""
    key = roll_call.run_key(f"127.0.0.1:{port}")
    answers = []

    def replay() -> None:
        questions = []
        for _ in range(2):
            caller = call(port)
            questions.append(json.loads(caller.makefile().readline())["nonce"])
        proof = roll_call._proof(key, questions[0], HELLO)
        caller.sendall(json.dumps(HELLO | {"proof": proof}).encode() + b"\n")
        answers.append(json.loads(caller.makefile().readline()))

    rolls = join_in_threads(port, (0, 1), replay)
    assert [roll.index for roll in rolls] == [0, 1]
    assert "process 0 belongs to another run" in answers[0]["problem"]


def test_a_process_of_another_run_is_told_so_and_counted(members: Members, monkeypatch) -> None:
    first = members.start(0, 2, timeout=8)
    monkeypatch.setenv(roll_call.RUN_ID, "another")
    status, _, error = outcome(members.start(1, 2, timeout=8))
    assert status == 1
    assert error.startswith("error: process 0 belongs to another run; allowed: the same T5X_EXT_")
    _, _, error = outcome(first)
    assert error == (
        "error: process 1 missing: 1 of 2 have started within 8 s; callers of other runs, refused "
        "(see T5X_EXT_RUN_ID): 1\n"
    )


def test_a_coordinator_on_loopback_is_listened_for_there_only(port: int, monkeypatch) -> None:
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    for name in ("127.0.0.1", "localhost"):
        with roll_call._listen(f"{name}:{port}", 2) as listener:
            assert listener.getsockname()[0] == "127.0.0.1"


def test_messages_that_are_none_end_the_connection() -> None:
    for line in (b"[1]\n", b"{", b"[" * 100_000 + b"\n", b"nonsense\n", b""):
        assert peers.parse_message(line) is None
    assert peers.parse_message(peers.to_line({"value": [1]})) == {"value": [1]}


def test_who_is_missing_is_named_to_all_that_came(members: Members) -> None:
    started = [members.start(index, 4, timeout=6) for index in (0, 2)]
    for member in started:
        line = "error: processes 1, 3 missing: 2 of 4 have started within 6 s\n"
        assert outcome(member) == (1, "", line)


def test_a_missing_process_0_is_named(members: Members) -> None:
    status, _, error = outcome(members.start(1, 2, timeout=1))
    assert status == 1
    assert error.startswith(f"error: process 0 is missing: nobody answered at {members.address}")


def test_one_number_for_two_and_two_counts_are_refused(members: Members) -> None:
    for other, problem in (
        ((0, 2), "cannot listen"),
        ((1, 3), f"process_count: 3 on process 1 ({HOST}), 2 on process 0 ({HOST})"),
    ):
        first = members.start(0, 2, timeout=20)
        time.sleep(1)
        second = members.start(*other, timeout=20)
        status, _, error = outcome(second)
        assert (status, problem in error) == (1, True), error
        first.kill()
        first.wait()


def test_one_that_is_silent_for_too_long_counts_as_gone(members: Members) -> None:
    first, second = (members.start(index, 2, silence=4, stay=600) for index in (0, 1))
    for member in (first, second):
        assert member.stdout.readline() == "everyone [0, 1]\n"
    second.send_signal(signal.SIGSTOP)
    line = f"error: process 1 ({HOST}) is gone: silent for 4 s\n"
    assert outcome(first) == (1, "", line)


def test_where_a_process_is_comes_from_flags_variables_or_the_cluster(monkeypatch) -> None:
    def place(*given):
        return multihost._place(*given, timeout_secs=1)

    assert place(None, None, None) == ("", 1, 0)
    assert place("a:1", 4, 3) == ("a:1", 4, 3)
    slurm = {
        "SLURM_JOB_ID": "12",
        "SLURM_STEP_NODELIST": "node[3-4]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    address, count, index = place(None, None, None)
    assert (address.partition(":")[0], count, index) == ("node3", 2, 1)
    assert place(None, 1, None) == ("", 1, 0)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "b:2")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "8")
    monkeypatch.setenv("JAX_PROCESS_ID", "5")
    assert place(None, None, None) == ("b:2", 8, 5)
    assert place(None, None, 6) == ("b:2", 8, 6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a:1", 2, None), "coordinator_address, process_count: given without process_index"),
        (("a:1", 2, 2), "process_index: 2; allowed: 0 to 1"),
        (("a", 2, 0), "coordinator_address: 'a'; allowed: host:port, with a port of 1 to 65535"),
        (("localhost:99999", 2, 0), "coordinator_address: 'localhost:99999'; allowed: host:port"),
        (("localhost:0", 2, 0), "coordinator_address: 'localhost:0'; allowed: host:port"),
        (("localhost:", 2, 1), "coordinator_address: 'localhost:'; allowed: host:port"),
        (("localhost:٣", 2, 1), "coordinator_address: 'localhost:٣'; allowed: host:port"),
        (("12321", 2, 1), "coordinator_address: '12321'; allowed: host:port"),
    ],
)
def test_flags_that_do_not_fit_are_refused(given, message: str) -> None:
    with pytest.raises(ConfigError, match=message), multihost.session(*given):
        pass


@pytest.mark.parametrize("bound", ["host", "", "host:", "[::]:99999", "0.0.0.0:0", "0.0.0.0:x"])
def test_an_address_to_bind_to_that_is_none_is_refused(bound: str, monkeypatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", bound)
    message = re.escape(f"JAX_COORDINATOR_BIND_ADDRESS: {bound!r}; allowed: host:port, ")
    with pytest.raises(ConfigError, match=message), multihost.session("localhost:1", 2, 0):
        pass


def test_a_session_of_one_lets_errors_through() -> None:
    with pytest.raises(KeyError), multihost.session(process_count=1):
        assert multihost.is_primary()
        assert multihost.gather("x") == ["x"]
        multihost.check_same({"config": "x"})
        raise KeyError
