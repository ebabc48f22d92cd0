"""SeqIO learns our names whichever is imported first, and only where it is imported at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mixtures import seqio_hook

REPO = Path(__file__).resolve().parents[2]

ASK = """
task = seqio.get_mixture_or_task("superni.ql.io.held_in.n10")
assert task.splits == ("train", "validation", "test"), task.splits
import tensorflow as tf
assert not [device for device in tf.config.get_visible_devices() if device.device_type != "CPU"]
print("known")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {key: text for key, text in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def is_native_log(line: str) -> bool:
    """A line of TensorFlow's C++ code, or what it says before the first one."""
    return (line[:1] in "IWE" and line[1:5].isdigit()) or "before absl::Init" in line


def test_mixtures_first():
    """TensorFlow's own lines are dropped while it is loaded, and no others."""
    done = run(
        "import os, mixtures\n"
        "from mixtures import seqio_hook\n"
        "register = seqio_hook._register\n"
        "seqio_hook._register = lambda: (os.write(2, b'a warning\\n'), register())\n"
        "import seqio\n" + ASK
    )
    assert done.stdout == "known\n", done.stderr
    lines = done.stderr.splitlines()
    assert "a warning" in lines
    assert not [line for line in lines if is_native_log(line)]


def test_seqio_first():
    done = run("import seqio\nimport mixtures\n" + ASK)
    assert done.stdout == "known\n", done.stderr


def test_seqio_looked_for_before_it_is_imported_and_without_standard_error():
    """Libraries look whether SeqIO is there; services close standard error."""
    done = run(
        "import importlib.util, os, sys, mixtures\n"
        "assert importlib.util.find_spec('seqio').loader.get_filename('seqio')\n"
        "sys.stderr = None\n"
        "os.close(2)\n"
        "import seqio\n" + ASK
    )
    assert done.stdout == "known\n"


def test_prompts_alone_load_neither():
    done = run(
        "import sys, mixtures.prompts\n"
        "print([name for name in ('seqio', 'tensorflow') if name in sys.modules])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_errors_that_tensorflow_logs_while_it_is_loaded_are_shown(capfd):
    stamp = "0000 00:00:1795174972.506864  7359 port.cc:153] "
    dropped = [f"I{stamp}oneDNN", f"W{stamp}x", f"E{stamp}Unable to register cuDNN factory"]
    shown = [f"E{stamp}the library does not fit", "Traceback"]
    with seqio_hook._without_native_logs():
        os.write(2, "".join(f"{line}\n" for line in [*dropped, *shown]).encode())
    assert capfd.readouterr().err.splitlines() == shown
