"""Locks: one writer per directory, one division of a study, and file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys

import pytest
from etils import epath

from t5x_ext.generation.journal import only_run
from t5x_ext.locks import DirectoryInUse, DirectoryLock, ShardLock

HOLD = """
import sys
from t5x_ext.locks import ShardLock
lock = ShardLock(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
print("held", flush=True)
sys.stdin.read()
"""


def hold(directory, index: int, count: int) -> subprocess.Popen:
    """A process that works on one part until its standard input is closed."""
    command = [sys.executable, "-c", HOLD, str(directory), str(index), str(count)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n", process.communicate()
    return process


def test_all_processes_divide_a_study_alike(tmp_path):
    """A part and the whole, or parts of two divisions, would do the same cells."""
    other = hold(tmp_path / "shards", 0, 2)
    for index, count in ((0, 1), (2, 3)):
        with pytest.raises(DirectoryInUse, match=f"divide it into 2 shards, not {count}"):
            ShardLock(tmp_path / "shards", index, count)
    with pytest.raises(DirectoryInUse, match="in use by another run"):
        ShardLock(tmp_path / "shards", 0, 2)
    second = ShardLock(tmp_path / "shards", 1, 2)
    other.communicate()
    with pytest.raises(DirectoryInUse, match="into 2 shards"):  # one of them is still at work
        ShardLock(tmp_path / "shards", 0, 3)
    second.release()
    ShardLock(tmp_path / "shards", 0, 3).release()


def test_a_killed_process_leaves_no_lock(tmp_path):
    other = hold(tmp_path / "shards", 0, 2)
    other.kill()
    other.wait()
    ShardLock(tmp_path / "shards", 0, 1).release()


def test_a_failed_attempt_holds_nothing(tmp_path):
    first = ShardLock(tmp_path / "shards", 0, 2)
    with pytest.raises(DirectoryInUse):
        ShardLock(tmp_path / "shards", 0, 2)
    first.release()
    ShardLock(tmp_path / "shards", 0, 1).release()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_in_one_line(tmp_path, monkeypatch, caplog, number):
    """Lustre without -o flock, NFS without a lock daemon, gcsfuse."""

    def refuse(file: object, kind: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = DirectoryLock(tmp_path)
    ShardLock(tmp_path / "shards", 0, 2).release()
    assert lock.is_in_place()
    lock.release()
    with only_run(epath.Path(tmp_path)):
        pass
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == (
        f"{tmp_path}: its file system has no locks (no locks here), so nothing stops a second run"
        " from writing there"
    )
    assert len(messages) == len(set(messages)) == 3  # the directory, its shards, and its part
