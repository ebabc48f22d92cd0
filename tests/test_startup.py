"""The flags about the process: compiled programs that are kept, processes that join."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_ext import accelerators, gin_utils, startup, train
from t5x_ext.errors import ConfigError

REPO = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys, time
from t5x_ext import gin_utils
import jax

def train():
    started = time.monotonic()
    f = jax.jit(lambda x: sum(x * k @ x for k in range(200)))
    f(jax.numpy.ones((64, 64))).block_until_ready()
    print("hits", hits[0], "dir", jax.config.jax_compilation_cache_dir)

hits = [0]
from jax._src import monitoring
monitoring.register_event_listener(
    lambda event, **_: hits.__setitem__(0, hits[0] + (event == "/jax/compilation_cache/cache_hits"))
)
sys.exit(gin_utils.run(train, gin_file="runs/train.gin"))
"""


def start(tmp_path: Path, *flags: str, **environment: str) -> tuple[int, str]:
    """Runs a command in a separate process; returns its cache hits and cache directory."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "empty.gin").write_text("")
    ours = {"T5X_EXT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(REPO)}
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "program.py", "--gin_file=empty.gin", *flags],
        cwd=tmp_path,
        env=inherited | ours | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    hits, directory = re.search(r"hits (\d+) dir (.*)", done.stdout).groups()
    return int(hits), directory


def test_a_second_start_compiles_nothing_that_took_long(tmp_path: Path) -> None:
    assert start(tmp_path)[0] == 0
    hits, directory = start(tmp_path)
    assert hits > 0
    assert directory.startswith(str(tmp_path / "cache" / "xla"))


def test_the_cache_can_be_switched_off_or_be_jaxs_own(tmp_path: Path) -> None:
    assert start(tmp_path, "--compilation_cache_dir=") == (0, "None")
    own = str(tmp_path / "own")
    assert start(tmp_path, JAX_COMPILATION_CACHE_DIR=own) == (0, own)
    assert not (tmp_path / "cache").exists()


DETERMINISTIC = """
import os
import platform
from t5x_ext import startup
startup.make_deterministic()
import jax
print(jax.numpy.arange(4).sum(), os.environ["XLA_FLAGS"])
startup.make_deterministic()  # nothing left to do
os.environ["XLA_FLAGS"] = ""
try:
    startup.make_deterministic()
except startup.ConfigError as error:
    print(error)
"""


def test_deterministic_sets_xlas_flag_while_xla_still_reads_it() -> None:
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC],
        cwd=REPO,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    flag = "--xla_gpu_deterministic_ops=true"
    assert done.stdout.splitlines() == [
        f"6 --xla_backend_optimization_level=0 {flag}",
        f"DETERMINISTIC: JAX has been used in this process already; start it with XLA_FLAGS={flag}",
    ]


def flags_of(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    startup.add_flags(parser)
    return parser.parse_args(arguments)


def test_multiprocess_gpu_needs_the_processes_named() -> None:
    with pytest.raises(ConfigError, match="--coordinator_address, --process_count and"):
        startup.take_flags(flags_of("--multiprocess_gpu", "--process_count=2"))
    flags = flags_of("--coordinator_address=host:1", "--process_count=2", "--process_index=1")
    assert startup.take_flags(flags)[:3] == ("host:1", 2, 1)
    assert not vars(flags)


# What a command has no use for, or has none for with data of ours. TensorFlow alone takes six
# seconds of a processor, and a gigabyte.
IMPORTED_BY_ACCIDENT = """
    tensorflow seqio tensorflow_datasets tensorflow_text clu keras pandas sklearn matplotlib torch
    transformers gcsfs wandb
""".split()

COMMANDS = """
import sys
from t5x_ext import eval, infer, train
model = ["--gin_file=models/{model}.gin", "--gin.MIXTURE_OR_TASK_NAME='task152_food_analogy'",
         "--gin.TASK_FEATURE_LENGTHS={{'inputs': 32, 'targets': 4}}", "--gin.BATCH_SIZE=8"]
read = [*model, "--gin.CHECKPOINT_PATH='run'", "--gin.SPLIT='validation'"]
assert train.main([*model, "--gin_file=runs/train.gin", "--gin_file=optimizers/adamw.gin",
                   "--gin.MODEL_DIR='run'", "--gin.BUDGET=10", "--gin.TRAIN_STEPS=1"]) == 0
assert infer.main([*read, "--gin_file=runs/infer.gin", "--gin.INFER_OUTPUT_DIR='run'"]) == 0
assert eval.main([*read, "--gin_file=runs/eval.gin", "--gin.EVAL_OUTPUT_DIR='run'"]) == 0
print([name for name in {unwanted!r} if name in sys.modules])
"""


@pytest.mark.slow
def test_commands_import_nothing_by_accident(tmp_path: Path) -> None:
    code = COMMANDS.format(model="t5_1_1_tiny", unwanted=IMPORTED_BY_ACCIDENT)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


@pytest.mark.parametrize("command", [("t5x_ext.cli", "train"), ("t5x_ext.train",)])
@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--gin.TRIAN_STEPS=1", "unknown macro 'TRIAN_STEPS'"),
        ("--gin_file=no.gin", "no file 'no.gin'"),
        ("--gin.BATCH_SIZE=(", "BATCH_SIZE"),
        ("--gin.TRAIN_STEPS=1", "MODEL_DIR"),
    ],
)
def test_wrong_gin_text_is_refused_before_jax_is_imported(
    command: tuple[str, ...], argument: str, problem: str
) -> None:
    start = [sys.executable, "-X", "importtime", "-m", *command]
    files = ["--gin_file=models/t5_1_1_tiny.gin", "--gin_file=runs/train.gin"]
    done = subprocess.run([*start, *files, argument], cwd=REPO, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 1
    assert len(lines) == 1 and lines[0].startswith("error: ") and problem in lines[0]
    assert not re.search(r"\| +(jax|numpy|tensorflow)$", done.stderr, re.M)


def test_wrong_flags_are_left_to_the_command() -> None:
    start = [sys.executable, "-m", "t5x_ext.train", "--gin_file=optimizers/adamw.gin"]
    for wrong in ("--gin.MODEL_DIR", "--no_such_flag", "--gin_file"):
        done = subprocess.run([*start, wrong], cwd=REPO, capture_output=True, text=True)
        assert done.returncode == 2 and "usage: t5x_ext train" in done.stderr, wrong


TINY = [
    "--gin_file=models/t5_1_1_tiny.gin",
    "--gin_file=runs/train.gin",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 16}",
    "--gin.MIXTURE_OR_TASK_NAME='held_in'",
    "--gin.PROMPT='tk.def'",
    "--gin.TRAIN_STEPS=1",
]
ABSL = "--logtostderr --noalsologtostderr --showprefixforinfo=false --verbosity=1 --v=0".split()
ABSL += ["--stderrthreshold", "info", "--log_dir=/nowhere", "--logger_levels=absl:info"]


def test_t5x_s_flags_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Those of T5X's train.py, eval.py, infer.py and main.py, and absl's for logging."""
    monkeypatch.chdir(tmp_path)
    where = f"--gin.MODEL_DIR='{tmp_path / 'run'}'"
    t5x = ["--gin_search_paths=.,/nowhere", "--gin_bindings=BATCH_SIZE = 4", "--tfds_data_dir=d"]
    t5x += ["--nomultiprocess_gpu", "--initialization_timeout=9", "--seqio_additional_cache_dirs=a"]
    assert train.main([*TINY, where, *ABSL, *t5x, "--dry_run"]) == 0
    out, err = capsys.readouterr()
    assert "BATCH_SIZE = 4\n" in out and err == ""
    assert not any(tmp_path.iterdir())
    assert train.main([*TINY, where, *ABSL, "--dry_run=true", "--gin.TRIAN_STEPS=1"]) == 1


@pytest.mark.parametrize(
    ("flags", "runs"),
    [
        ("--dry_run", False),
        ("--dry_run=True", False),
        ("--nodry_run --dry_run=1", False),
        ("--dry_run=false", True),
        ("--dry_run --nodry_run", True),
        ("--nodry_run", True),
    ],
)
def test_switches_are_spelt_as_absl_has_them(flags: str, runs: bool, tmp_path: Path) -> None:
    (tmp_path / "empty.gin").write_text("")
    called = []

    def command() -> None:
        called.append(1)

    gin_file = f"--gin_file={tmp_path / 'empty.gin'}"
    gin_utils.run(command, [gin_file, *flags.split()], gin_file="runs/train.gin")
    assert called == [1] * runs


def test_what_is_no_boolean_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        train.main([*TINY, "--dry_run=maybe"])
    assert "argument --dry_run: 'maybe'; allowed: true, false" in capsys.readouterr().err


def test_seqio_looks_for_cached_tasks_where_a_flag_says(tmp_path: Path) -> None:
    import seqio

    (tmp_path / "empty.gin").write_text("")
    before = list(seqio.get_global_cache_dirs())
    seen = []

    def command() -> None:
        seen.extend(seqio.get_global_cache_dirs())

    flags = [f"--gin_file={tmp_path / 'empty.gin'}", "--seqio_additional_cache_dirs=/one,/two"]
    try:
        assert gin_utils.run(command, flags, gin_file="runs/train.gin") == 0
    finally:
        seqio.set_global_cache_dirs(before)
    assert seen == [*before, "/one", "/two"]


def test_help_names_the_flags(capsys) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    shown = capsys.readouterr().out
    assert "--compilation_cache_dir" in shown and "--coordinator_address" in shown


MEASURE = """
import resource, jax
import jax.numpy as jnp
from t5x_ext import startup

{before}
step = jax.jit(lambda x: jnp.sum(jax.lax.optimization_barrier(x + 1) @ x[0]))
x = jnp.ones((4096, 4096))  # 64 MiB
for _ in range(40):  # blocks find their places
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(before: str = "", **environment: str) -> int:
    """Pages that the system cleared for five steps with temporary arrays of 64 MiB."""
    command = [sys.executable, "-c", MEASURE.format(before=before)]
    environment = {"JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(
        command, env=environment, cwd=REPO, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_steps_on_the_cpu_find_their_memory_again() -> None:
    assert page_faults() > 10_000
    assert page_faults("startup.keep_freed_memory()") < 1_000


def test_settings_of_the_allocator_in_the_environment_stay() -> None:
    asked = page_faults("startup.keep_freed_memory()", MALLOC_MMAP_THRESHOLD_="100000")
    assert asked > 10_000


def test_a_tpu_is_not_looked_for_where_there_is_none() -> None:
    pytest.importorskip("libtpu")
    if accelerators.has_device(accelerators.ANY) or importlib.util.find_spec("jax_plugins"):
        pytest.skip("there are accelerators or plugins for them")
    skip = "from t5x_ext import accelerators; accelerators.skip_absent_tpu()"
    program = f"{skip}; import jax; jax.devices()"
    # Otherwise libtpu stays silent beside another process that has it.
    environment = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
