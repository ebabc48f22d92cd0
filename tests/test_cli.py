"""The console script."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

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


@pytest.mark.parametrize("name", ["show_batch", "show-batch", "show"])
def test_hyphens_are_underscores(name, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([name, "--help"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("usage: t5x_ext show_batch ")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"t5x_ext {__version__}\n"


def test_bash_completes_commands(capsys):
    assert cli.main(["completion"]) == 0
    script = capsys.readouterr().out + textwrap.dedent("""
        COMP_WORDS=(t5x_ext in); COMP_CWORD=1; _t5x_ext; echo "${COMPREPLY[@]}"
        COMPREPLY=(); COMP_WORDS=(t5x_ext score p); COMP_CWORD=2; _t5x_ext; echo "${#COMPREPLY[@]}"
        complete -p t5x_ext
    """)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    words, files, registered = done.stdout.splitlines()
    assert words.split() == ["infer", "inspect"]
    assert files == "0"  # bash goes on to file names
    assert registered == "complete -o default -F _t5x_ext t5x_ext"


@pytest.mark.parametrize("module", ["t5x_ext", "t5x_ext.cli"])
def test_a_command_gets_its_arguments_and_returns_its_status(tmp_path, module):
    missing = tmp_path / "none.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", module, "score", str(missing)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error:") and str(missing) in done.stderr
