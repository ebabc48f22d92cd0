"""The console script: `t5x_ext COMMAND ...` is `python -m t5x_ext.COMMAND ...`.

Only `inspect` has another module: see `module_of`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from t5x_ext import __version__, check_early
from t5x_ext.errors import nearest
from t5x_ext.terminal import command, note, show

COMMANDS = {
    "train": "train or finetune a model",
    "eval": "decode and score a checkpoint on a task or mixture",
    "infer": "write a checkpoint's predictions as JSON lines",
    "specialize": "tune a model for a domain on data that it writes itself",
    "study": "run a grid of trainings and evaluations",
    "report": "turn a study's results into tables, plots and one HTML page",
    "score": "score a predictions file",
    "show_batch": "show a training batch as the model is given it, what the loss counts marked",
    "audit": "examine task data: lengths, truncation, leaks, label skew, unknown pieces",
    "plan": "tell in advance whether a run fits, how long it takes and what it costs",
    "convert": "convert checkpoints between the layouts of T5X, Hugging Face and our own",
    "inspect": "show what a checkpoint of any layout holds",
}

# `python t5x_ext/train.py` puts this directory first on Python's path, where a file inspect.py
# would stand in for the standard library's module.
_MODULES = {"inspect": "inspect_checkpoint"}
_OTHER_NAMES = {"show": "show_batch"}


# For `source <(t5x_ext completion)` in ~/.bashrc. Words after the command are completed as files.
_BASH_COMPLETION = """_t5x_ext() {{
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "${{COMP_WORDS[1]}}"))
    fi
}}
complete -o default -F _t5x_ext t5x_ext"""


def module_of(name: str) -> str:
    """The module that `python -m` takes for a command: 'train' -> 't5x_ext.train'."""
    return f"t5x_ext.{_MODULES.get(name, name)}"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Dispatches to one command's `main(argv) -> int`, importing that command only.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit status: the command's, or 2 on wrong usage.
    """
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if argv is None and not sys.flags.safe_path:
        # Gin files import users' modules from the working directory, as `python -m` finds them;
        # last, so that no file there stands in for a package.
        sys.path.append(os.getcwd())
    name = _known_name(name)
    if name in COMMANDS:
        check_early(module_of(name), rest)
        return importlib.import_module(module_of(name)).main(rest)
    if name in ("-h", "--help"):
        show(*_usage())
        return 0
    if name == "completion":
        show(*_BASH_COMPLETION.format(commands=" ".join(COMMANDS)).split("\n"))
        return 0
    if name == "--version":
        show(f"t5x_ext {__version__}")
        return 0
    problem = f"unknown command '{name}'{nearest(name, COMMANDS)}" if name else "no command given"
    note(f"error: {problem} (t5x_ext --help lists them)")
    return 2


def _known_name(name: str) -> str:
    """The command that is meant: `show-batch` is `show_batch`."""
    found = _OTHER_NAMES.get(name, name.replace("-", "_"))
    return found if found in COMMANDS else name


def _usage() -> list[str]:
    lines = [f"  {name:<11} {summary}" for name, summary in COMMANDS.items()]
    return [
        "usage: t5x_ext COMMAND ...",
        "",
        "commands:",
        *lines,
        "",
        "t5x_ext COMMAND --help         the flags of a command, with an example",
        "t5x_ext --version              the version",
        "source <(t5x_ext completion)   completes commands in bash",
    ]


if __name__ == "__main__":
    sys.exit(main())
