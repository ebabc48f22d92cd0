"""Reading and writing local files: whole or absent, through links and to devices."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from t5x_ext import eval as evaluate
from t5x_ext import files, infer, study, train
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Prediction, write_predictions

ROW = Prediction("t", "c", "1", "in", ("out",), "out")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is a shell variable unset?"),
        (" ", "is a shell variable unset?"),
        ("xx://a/b", "gs://bucket/..."),
        ("https://example.com/x", "gs://bucket/..."),
        ("s3://b/x", "gs://bucket/..."),
        ("gs://", "gs://bucket/..."),
        ("gs:///x", "gs://bucket/..."),
        (Path("gs://b/x"), "two slashes"),
        ("a\0b", "NUL"),
        ("~nouser/x.jsonl", "no such user"),
        ("x" * 400 + ".jsonl", "names up to 255 bytes"),
        ("x/" * 3000, "names up to 255 bytes"),
        ("ö" * 200, "names up to 255 bytes"),
        ("a\ud800", "names up to 255 bytes"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused_with_its_setting(value, reason) -> None:
    with pytest.raises(ConfigError, match="^MODEL_DIR: ") as refused:
        files.path(value, "MODEL_DIR")
    assert reason in str(refused.value)


def test_what_has_to_be_local_says_so() -> None:
    with pytest.raises(ConfigError, match="^CACHE: 'gs://b/x'; allowed: a local path$"):
        files.local_path("gs://b/x", "CACHE")


def test_a_home_directory_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(files.path("~/x")) == str(tmp_path / "x")


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    files.write_text(target, "old")

    def fail(source: str, destination: str) -> None:
        raise OSError(28, "No space left on device", destination)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(ConfigError, match=r"scores.json: cannot be written \(No space left"):
            files.write_text(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_two_processes_of_one_number_do_not_share_a_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers that share a disk may share process ids: the name must not rest on them."""
    seen = []
    replace = os.replace

    def remember(source: str, destination: str) -> None:
        seen.append(source)
        replace(source, destination)

    monkeypatch.setattr(os, "replace", remember)
    files.write_text(tmp_path / "a", "1")
    files.write_text(tmp_path / "a", "2")
    assert len(set(seen)) == 2


def test_a_symbolic_link_is_followed_even_where_it_leads_nowhere_yet(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to("disk/real.jsonl")
    for content in ("first", "second"):
        files.write_text(link, content)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "real.jsonl").read_text() == content


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    files.write_text(secret, "x")
    assert secret.stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_predictions(pipe, [ROW])
    reader.join(30)
    assert received == [ROW.to_json().encode() + b"\n"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("into", ["pipe", "file"])
def test_standard_output_can_be_an_output_file(into: str, tmp_path: Path) -> None:
    code = (
        "from t5x_ext import files\n"
        "print('before', flush=True)\n"
        "files.write_text('/dev/stdout', 'content\\n')\n"
        "print('after')"
    )
    redirected = tmp_path / "log"
    with redirected.open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=log if into == "file" else subprocess.PIPE,
            check=True,
        )
    printed = redirected.read_bytes() if into == "file" else done.stdout
    assert printed == b"before\ncontent\nafter\n"


def score_to(out: str, predictions: Path, **streams: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "t5x_ext.score", str(predictions), "--out", out]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **streams)


@pytest.mark.parametrize("out", ["/dev/stdout", "/dev/fd/1"])
def test_a_reader_of_an_output_file_that_has_enough_ends_the_command_quietly(
    out: str, tmp_path: Path
) -> None:
    write_predictions(tmp_path / "p", [ROW])
    read, write = os.pipe()
    os.close(read)
    with score_to(out, tmp_path / "p", stdout=write) as done:
        os.close(write)
        assert done.stderr.read() == b""
    assert done.returncode == 141


def test_standard_output_that_is_closed_is_refused_as_an_output_file(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p", [ROW])
    with score_to("/dev/stdout", tmp_path / "p", preexec_fn=lambda: os.close(1)) as done:
        message = done.stderr.read().decode()
    assert message == "error: /dev/stdout: cannot be written (Bad file descriptor)\n"
    assert done.returncode == 1


@pytest.mark.parametrize("number", [987, 10**12])
def test_a_number_that_no_open_file_has_is_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=f"^/dev/fd/{number}: cannot be written "):
        files.write_text(f"/dev/fd/{number}", "x")


def is_legal(name: str) -> bool:
    try:
        return name not in (".", "..") and len(os.fsencode(name)) <= 255 and not {*"/\0"} & {*name}
    except UnicodeEncodeError:
        return False


NAMES = st.text(min_size=1) | st.builds(operator.mul, st.characters(), st.integers(1, 255))


@given(NAMES.filter(is_legal))
@example("語" * 80 + ".jsonl")
@example("n" * 255)
def test_any_name_that_the_disk_takes_can_be_written(name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for content in ("old", "new"):
            files.write_text(os.path.join(directory, name), content)
            assert files.read_text(os.path.join(directory, name)) == content
        assert os.listdir(directory) == [name]


def test_what_grows_is_on_disk_at_once(tmp_path: Path) -> None:
    log = files.GrowingFile(tmp_path / "new" / "log")
    log.append(b"a\n")
    assert (tmp_path / "new" / "log").read_bytes() == b"a\n"
    log.append(b"b\n")
    log.close()
    log.close()
    again = files.GrowingFile(tmp_path / "new" / "log", lambda old: old[:2])
    again.append(b"c\n")
    assert (tmp_path / "new" / "log").read_bytes() == b"a\nc\n"
    again.close()


def test_nothing_that_buckets_need_is_imported_without_one(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from t5x_ext import files\n"
        "files.write_text(sys.argv[1], 'x'); files.read_text(sys.argv[1])\n"
        "import t5x_ext.train, t5x_ext.study, t5x_ext.report\n"
        "print([m for m in ('gcsfs', 'fsspec', 'aiohttp', 'google.auth') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("command", "macro"),
    [
        (train, "MODEL_DIR"),
        (study, "MODEL_DIR"),
        (evaluate, "EVAL_OUTPUT_DIR"),
        (infer, "INFER_OUTPUT_DIR"),
    ],
)
@pytest.mark.parametrize("value", ["", "xx://a/b"])
def test_commands_refuse_an_output_that_cannot_be_meant_and_write_nothing(
    command: ModuleType,
    macro: str,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = {"study": ["studies/quickstart.gin"]}
    name = command.__name__.rpartition(".")[2]
    gin_files = run.get(name, ["models/t5_1_1_tiny.gin", f"runs/{name}.gin"])
    flags = [f"--gin_file={file}" for file in gin_files]
    if name != "study":
        flags.append("--gin.MIXTURE_OR_TASK_NAME='held_in'")
        flags.append("--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 16}")
    if name in ("eval", "infer"):
        flags.append("--gin.CHECKPOINT_PATH='nowhere'")
    if name == "train":
        flags.append("--gin.TRAIN_STEPS=1")
    assert command.main([*flags, f"--gin.{macro}='{value}'"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {macro}: {value!r}; allowed: ")
    assert list(tmp_path.iterdir()) == []
