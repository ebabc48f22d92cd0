"""Disks that fill up, become read-only or vanish under a run: one line, and nothing is lost."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disturbed_runs import (
    CHECKPOINT_BYTES,
    EVERY,
    Server,
    check_equal,
    has_ended,
    is_saving,
    log_of,
)
from small_disks import SmallDisk, may_mount

pytestmark = pytest.mark.slow
needs_mounts = pytest.mark.skipif(not may_mount(), reason="mounts its own file system")
GONE = "(the directory was unmounted, moved or deleted)"


def the_error(directory: Path) -> str:
    """The one line about what went wrong; nothing of ours is traced."""
    lines = log_of(directory).splitlines()
    (ours,) = (line for line in lines if line.startswith("error: "))
    assert not any("Traceback" in line for line in lines), log_of(directory)
    return ours


@pytest.mark.parametrize(
    ("max_file_bytes", "message"),
    [
        (50_000, "File too large"),  # the log fits, the tokenizer does not
        (
            CHECKPOINT_BYTES,
            r"step (\d+) cannot be saved \(File too large\); the last good checkpoint is (\w+);",
        ),
    ],
)
def test_files_that_cannot_grow_end_the_run(
    server: Server, unbroken: Path, tmp_path: Path, max_file_bytes: int, message: str
) -> None:
    directory = tmp_path / "run"
    assert server.train(directory, max_file_bytes=max_file_bytes) == 1, log_of(directory)
    found = re.search(message, the_error(directory))
    assert found
    if found.groups():  # mostly the first save, of which there is nothing before
        step = int(found[1])
        assert found[2] == ("none" if step == EVERY else f"checkpoint_{step - EVERY}")
    assert server.train(directory) == 0, log_of(directory)
    check_equal(directory, unbroken)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "disk", 16) as disk:
        yield disk


def wait_for_a_later_save(server: Server, directory: Path) -> None:
    """Starts a run, and returns while it saves, not for the first time."""
    process = server.start(directory)
    while not ((directory / f"checkpoint_{EVERY}").exists() and is_saving(directory)):
        assert not has_ended(process), log_of(directory)
        time.sleep(0.001)


@needs_mounts
@pytest.mark.parametrize(
    ("fault", "cure", "message"),
    [
        (SmallDisk.fill, SmallDisk.free, "No space left on device"),
        (SmallDisk.forbid_writing, SmallDisk.detach, "cannot be saved (Read-only file system)"),
        (SmallDisk.detach, SmallDisk.attach, GONE),
    ],
    ids=["full", "read-only", "unmounted"],
)
def test_a_disk_that_fails_in_a_save_ends_the_run(
    server: Server,
    unbroken: Path,
    disk: SmallDisk,
    fault: Callable[[SmallDisk], None],
    cure: Callable[[SmallDisk], None],
    message: str,
) -> None:
    wait_for_a_later_save(server, disk.path)
    fault(disk)
    assert server.exit_code() == 1, log_of(disk.path)
    assert message in the_error(disk.path)
    if fault == SmallDisk.detach:  # no run goes on where the disk was
        assert not list(disk.path.glob("checkpoint_*[0-9]"))
    cure(disk)
    assert server.train(disk.path) == 0, log_of(disk.path)
    check_equal(disk.path, unbroken)


def test_a_directory_that_is_moved_away_ends_the_run(
    server: Server, unbroken: Path, tmp_path: Path
) -> None:
    directory, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    wait_for_a_later_save(server, directory)
    directory.rename(elsewhere)
    assert server.exit_code() == 1, log_of(directory)
    assert GONE in the_error(directory)
    assert not list(directory.glob("checkpoint_*[0-9]"))
    shutil.rmtree(directory, ignore_errors=True)
    elsewhere.rename(directory)
    assert server.train(directory) == 0, log_of(directory)
    check_equal(directory, unbroken)
