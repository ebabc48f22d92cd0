"""One way to speak and to end, for every command: pipes, full disks, Ctrl-C, odd terminals."""

from __future__ import annotations

import ast
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_ext import errors, terminal
from t5x_ext.cli import COMMANDS, module_of
from t5x_ext.errors import ConfigError, TryAgain

REPO = Path(__file__).resolve().parents[1]
ESCAPES = "\x1b]0;owned\x07\x1b[2J\nerror: not ours\r\x7f\x9b\u202e\u2028\ud800"


def run(*arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    """Runs Python with the repository as an installed package would be found."""
    environment = os.environ | {"PYTHONPATH": str(REPO)} | settings.pop("env", {})
    settings = {"capture_output": True, "text": True} | settings
    return subprocess.run([sys.executable, *arguments], env=environment, **settings)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """More than a pipe's buffer holds, the first with a hostile name."""
    path = tmp_path / "p.jsonl"
    rows = [
        {"task": task, "category": "ö", "id": "1", "references": ["a"], "prediction": "a"}
        for task in (ESCAPES[:-1], *(f"task{number}_{'x' * 400}" for number in range(300)))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_one_is_singular() -> None:
    found = [errors.amount(number, "cell") for number in (0, 1, 2, 1200)]
    assert found == ["0 cells", "1 cell", "2 cells", "1,200 cells"]


@given(st.text() | st.just(ESCAPES))
def test_a_line_stays_one_line_of_printable_characters(text: str) -> None:
    for encoding in ("utf-8", "ascii"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            terminal.show(text, "second")
        shown = stream.buffer.getvalue().decode(encoding)
        first, second, end = shown.split("\n")
        assert first.isprintable() and (second, end) == ("second", "")
        if text.isprintable() and (encoding == "utf-8" or text.isascii()):
            assert first == text


@given(st.recursive(st.text() | st.just(ESCAPES), st.lists))
def test_json_is_one_printable_line_with_nothing_lost(value) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        terminal.show_json(value)
    line = stream.buffer.getvalue().decode()
    assert line.removesuffix("\n").isprintable()
    assert json.loads(line) == value


def test_nothing_else_prints() -> None:
    """Whatever writes to a stream by itself would bring the escapes back."""
    for path in [*(REPO / "t5x_ext").rglob("*.py"), *(REPO / "mixtures").rglob("*.py")]:
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("print", "sys.stdout.write", "sys.stderr.write"), path


def test_a_reader_that_has_enough_ends_the_command_quietly(predictions: Path) -> None:
    for flags in (["--by", "task"], ["--by", "task", "--json"]):
        command = [sys.executable, "-m", "t5x_ext.score", str(predictions), *flags]
        with subprocess.Popen(
            command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 141


# What `python -m` runs besides the commands of `t5x_ext`.
OF_MIXTURES = (
    "mixtures.bundled.build",
    "mixtures.specialization.bundled.vocabulary",
    "mixtures.super_natural_instructions.__main__",
    "mixtures.train_vocabulary",
    "mixtures.writing.__main__",
    "mixtures.writing.bundled.vocabulary",
)


@pytest.mark.parametrize("module", ["t5x_ext.score", *OF_MIXTURES])
def test_help_into_a_closed_pipe_is_quiet_too(module: str) -> None:
    code = (
        "import os; read, write = os.pipe(); os.close(read); os.dup2(write, 1);"
        f"from {module} import main; main(['--help'])"
    )
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("module", OF_MIXTURES)
def test_commands_of_mixtures_run_without_docstrings(module: str) -> None:
    done = run("-OO", "-m", module.removesuffix(".__main__"), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {module.removesuffix('.__main__')} ")


def test_every_module_that_runs_ends_in_the_one_way() -> None:
    """All that have a `__main__` part hand `main`, so decorated, to `sys.exit`."""
    run_themselves = []
    for path in [*(REPO / "t5x_ext").rglob("*.py"), *(REPO / "mixtures").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for node in tree.body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                assert ast.unparse(node.body) == "sys.exit(main())", path
                if path == REPO / "t5x_ext" / "__main__.py":  # hands on cli's
                    continue
                main = functions["main"]
                ends = [ast.unparse(each) for each in main.decorator_list] == ["command"]
                assert ends or "gin_utils.run(" in ast.unparse(main), path
                run_themselves.append(path)
    assert len(run_themselves) == len(COMMANDS) + 1 + len(OF_MIXTURES)  # `cli` is no command


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full device")
@pytest.mark.parametrize("flags", [[], ["--json"], ["--help"]])
def test_a_full_output_is_one_line(predictions: Path, flags: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run(
            "-m",
            "t5x_ext.score",
            str(predictions),
            *flags,
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=REPO,
        )
    assert done.returncode == 1
    expected = "error: standard output: cannot be written (No space left on device)\n"
    assert done.stderr == expected


def test_a_closed_output_is_no_error(predictions: Path) -> None:
    command = f"{sys.executable} -m t5x_ext.score {predictions} >&-"
    done = subprocess.run(["bash", "-c", command], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ascii_terminals_and_hostile_names(predictions: Path) -> None:
    done = run(
        "-m",
        "t5x_ext.score",
        str(predictions),
        "--by",
        "category,task",
        cwd=REPO,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() and "\\xf6" in done.stdout
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    assert not [line for line in done.stdout.split("\n") if line.startswith("error")]
    assert run("-m", "t5x_ext.cli", ESCAPES[:-1], cwd=REPO).stderr.count("\n") == 1
    refused = run("-m", "t5x_ext.score", "--\x1b[2J", "p", cwd=REPO).stderr
    assert "\x1b" not in refused and r"\x1b[2J" in refused


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_run_by_path_as_t5xs_users_run_them(name: str, tmp_path: Path) -> None:
    """`python t5x_ext/train.py` puts t5x_ext on the path, whose files must not hide packages."""
    path = REPO / "t5x_ext" / f"{module_of(name).rpartition('.')[2]}.py"
    done = run(str(path), "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: t5x_ext {name}")


def test_a_script_configures_the_function_that_it_calls(tmp_path: Path) -> None:
    gin_file = "--gin_file=runs/train.gin"
    asked = [
        "--gin_file=models/t5_1_1_tiny.gin",
        "--gin.MIXTURE_OR_TASK_NAME='held_in'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}",
        "--gin.TRAIN_STEPS=1",
        "--gin.BATCH_SIZE=0",
        f"--gin.MODEL_DIR='{tmp_path}'",
    ]
    done = run(str(REPO / "t5x_ext" / "train.py"), *asked, gin_file, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "batch_size: 0" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_module_hides_one_of_the_standard_library() -> None:
    names = {path.stem for path in (REPO / "t5x_ext").iterdir()}
    assert not names & set(sys.stdlib_module_names)


def start(code: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell makes what it runs in the background deaf to Ctrl-C, this test run perhaps.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def interrupt(process: subprocess.Popen, times: int = 1) -> tuple[int, str]:
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    stderr = process.communicate()[1]
    return process.returncode, stderr


IMPORTING = """
import sys, runpy, types
class Slow:
    def find_spec(self, name, path, target=None):
        if name == "jax":
            import os, time
            os.write(1, b"importing\\n")
            time.sleep(60)
sys.meta_path.insert(0, Slow())
sys.argv = ["-m"]
sys.path.insert(0, "")
import t5x_ext.train
"""


def test_ctrl_c_during_imports_is_one_line() -> None:
    process = start(IMPORTING)
    assert process.stdout.readline() == "importing\n"
    assert interrupt(process) == (130, "interrupted\n")


WORKING = """
import os, sys, time
sys.path.insert(0, "")
from t5x_ext.terminal import exit_status
def call():
    os.write(1, b"working\\n")
    {body}
sys.exit(exit_status(call))
"""
BODIES = {
    "python": ("time.sleep(60)", 1),
    # As native code does whose callback is interrupted.
    "native": ("try: time.sleep(60)\n    except KeyboardInterrupt: raise ImportError('odd')", 1),
    # A clean-up that takes long is not waited for when the user insists.
    "stuck": ("try: time.sleep(60)\n    finally: time.sleep(60)", 2),
}


@pytest.mark.parametrize("case", BODIES)
def test_ctrl_c_is_one_line_and_status_130(case: str) -> None:
    body, times = BODIES[case]
    process = start(WORKING.format(body=body))
    assert process.stdout.readline() == "working\n"
    assert interrupt(process, times) == (130, "interrupted\n")


def test_a_job_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert terminal.exit_status(lambda: os.kill(os.getpid(), signal.SIGINT)) == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_handler_of_a_caller_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert terminal.exit_status(lambda: None) == 0
    assert signal.getsignal(signal.SIGINT) is before
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(terminal.exit_status(lambda: None)))
    thread.start()
    thread.join()
    assert statuses == [0]


def test_what_users_cause_is_one_line_and_defects_pass(capsys) -> None:
    def refuse() -> None:
        raise ConfigError(f"field: {ESCAPES}")

    def fill_memory() -> None:
        raise MemoryError("Unable to allocate 3. TiB")

    def fail() -> None:
        raise RuntimeError("a defect")

    def wait_in_vain() -> None:
        raise TryAgain("not there yet")

    assert terminal.exit_status(refuse) == 1
    assert terminal.exit_status(fill_memory) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert terminal.exit_status(wait_in_vain) == 75
    assert capsys.readouterr().err == "error: not there yet\n"
    assert first.startswith(r"error: field: \x1b]0;owned\x07")
    assert second == "error: out of memory: Unable to allocate 3. TiB"
    with pytest.raises(RuntimeError, match="a defect"):
        terminal.exit_status(fail)
