"""The console script."""

from __future__ import annotations

import subprocess
import sys

from t5x_ext import __version__, cli


def test_help_lists_the_commands_without_importing_them():
    code = (
        "import sys; from t5x_ext import cli; status = cli.main(['--help']);"
        "heavy = {'jax', 'tensorflow', 'seqio', *(f't5x_ext.{c}' for c in cli.COMMANDS)};"
        "print(sorted(heavy & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *usage, imported = done.stdout.splitlines()
    assert imported == "[]"
    for command in ("train", "eval", "infer", "study", "report", "score", "audit"):
        assert sum(line.split()[:1] == [command] for line in usage) == 1


def test_unknown_command_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    message = capsys.readouterr().err
    assert "unknown command 'trian'; did you mean 'train'?" in message
    assert len(message.splitlines()) == 1
    assert cli.main([]) == 2


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"t5x_ext {__version__}\n"


def test_a_command_gets_its_arguments_and_returns_its_status(tmp_path):
    missing = tmp_path / "none.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "t5x_ext.cli", "score", str(missing)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error:") and str(missing) in done.stderr
