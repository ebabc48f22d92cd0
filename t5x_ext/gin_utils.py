"""Gin for the commands: reading and checking a configuration, writing it down, running with it.

The checks themselves are in t5x_ext.gin_strict.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import itertools
import linecache
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin

from t5x_ext import files, multihost, startup, terminal
from t5x_ext.gin_strict import binding, checks, order
from t5x_ext.gin_strict.source import GinFile, Macro, read_bindings, read_file, symbols

CONFIG_FILE = "config.gin"
# `not_needed` of commands that want a model's sizes, for which no vocabulary is read.
NO_VOCABULARY = {"VOCABULARY_PATH": ("VOCABULARY_PATH = ''", "VOCABULARY = None")}

_PACKAGES = Path(__file__).resolve().parents[1]
_SHIPPED = _PACKAGES / "gin_configs"


def parse(
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    command: Callable[..., Any] | None = None,
    given: Sequence[str] = (),
    not_needed: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Reads gin files and bindings into a fresh gin configuration and locks it.

    Relative names are looked up in the search paths, the working directory, the directory that
    holds the installed gin_configs, and gin_configs itself: `gin_configs/runs/train.gin` and
    `runs/train.gin` work from anywhere.

    Args:
        gin_files: Files in order; later ones override earlier ones.
        bindings: Texts of the form `NAME = VALUE` that override the files.
        search_paths: Directories to search first.
        command: The function that will be called with this configuration; its missing arguments
            are reported here, and `import __main__` in a gin file means its module.
        given: Names of arguments that the command is called with.
        not_needed: Of macros that need not be set for this command, bindings to read in their
            place where they are required and not set.

    Raises:
        ConfigError: A file, name, type or value is wrong; the message says where.
    """
    sources = _read_files(gin_files, search_paths)
    said = [item for source in (*sources, read_bindings(bindings)) for item in source.bindings()]
    unset = (not_needed or {}).get
    instead = [text for item in checks.unset_macros(said) for text in unset(item.name, ())]
    sources.append(read_bindings([*instead, *bindings]))
    checks.check_text(sources, _shipped_macros)
    order.warn_of_order(sources, _SHIPPED)
    gin.clear_config()
    bound = binding.Bound()
    if command is not None:
        binding.register(command)
    for source in sources:
        binding.apply(source, bound, command and command.__module__)
    checks.check_bound(bound, command, given)
    gin.finalize()


def check_early(argv: Sequence[str]) -> None:
    """Checks the text of a configuration before the command's module is imported.

    The imports take one to two seconds of a processor, this a tenth. Nothing is changed, and the
    command checks all again; what is wrong with its flags is left to it, and so are warnings.

    Args:
        argv: Arguments of a command that is run by `run`.

    Raises:
        ConfigError: See `checks.check_text`.
    """
    parser = gin_flags()
    parser.exit_on_error = False
    try:
        flags, _ = parser.parse_known_args([_rewrite(argument) for argument in argv])
    except argparse.ArgumentError:
        return
    if not {"-h", "--help"}.isdisjoint(argv) or not flags.gin_file:
        return
    sources = _read_files(flags.gin_file, _split_paths(flags.gin_search_paths))
    logging.disable(logging.WARNING)
    try:
        checks.check_text([*sources, read_bindings(flags.gin_bindings)], _shipped_macros)
    finally:
        logging.disable(logging.NOTSET)


def _read_files(gin_files: Sequence[str], search_paths: Sequence[str]) -> list[GinFile]:
    directories = [*search_paths, "", str(_PACKAGES), str(_SHIPPED)]
    return [read_file(name, directories) for name in gin_files]


@functools.cache
def _shipped_macros() -> Mapping[str, Sequence[str]]:
    """Returns every macro of the package's own gin files, and of each the files that set it."""
    found: dict[str, list[str]] = {}
    runs_first = sorted(
        _SHIPPED.rglob("*.gin"), key=lambda file: (file.parent.name != "runs", file)
    )
    for path in runs_first:
        name = path.relative_to(_SHIPPED).as_posix()
        for item in read_file(str(path), [str(_PACKAGES), str(_SHIPPED)]).bindings():
            for symbol in symbols(item.value):
                if isinstance(symbol, Macro):
                    found.setdefault(symbol.name, [])
            if item.is_macro and name not in found.setdefault(item.name, []):
                found[item.name].append(name)
    return found


def operative_config() -> str:
    """Returns the parsed configuration as a gin file that can be rerun as is.

    All bindings are there, with their macros, scopes and imports; included files are resolved.
    """
    return f"# Written by t5x_ext. Run again with --gin_file={CONFIG_FILE}\n\n{gin.config_str(100)}"


def summarize_gin_config(model_dir: str, summary_writer: Any | None, step: int) -> None:
    """Writes the configuration to MODEL_DIR/config.gin, atomically, and to TensorBoard.

    Args:
        model_dir: Directory of the run; created if need be.
        summary_writer: Object with T5X's (CLU's) `write_texts(step, {name: text})` and `flush()`.
        step: The training step to file the text under.
    """
    import jax

    if jax.process_index() != 0:
        return
    text = operative_config()
    files.write_text(files.path(model_dir) / CONFIG_FILE, text)
    if summary_writer is not None:
        summary_writer.write_texts(step, {"config": gin.markdown(text)})
        summary_writer.flush()


def set_argument(command: Callable[..., Any], name: str, value: Any) -> None:
    """Sets an argument of a command in the configuration that is written down.

    For what a run chooses by itself. Where the argument was bound to a macro, the macro is set.
    A command that was called without gin has no configuration, and nothing happens.
    """
    binding.rebind(command, name, value)


def run(
    command: Callable[..., Any],
    argv: Sequence[str] | None = None,
    *,
    gin_file: str,
    add_flags: Callable[[argparse.ArgumentParser], None] | None = None,
    joins_cluster: bool = True,
) -> int:
    """Runs a gin-configured command from the command line.

    A command module ends with

        def main(argv: Sequence[str] | None = None) -> int:
            return gin_utils.run(train, argv, gin_file="runs/train.gin")

        if __name__ == "__main__":
            sys.exit(main())

    Args:
        command: The function to call; gin supplies its arguments.
        argv: Arguments without the program's name; by default those of the process.
        gin_file: The shipped file that --help describes. It is not read otherwise.
        add_flags: Adds the command's own flags to the parser. Those that are given go to the
            function as keyword arguments and win over gin.
        joins_cluster: Whether the processes of a cluster's job (SLURM, a TPU pod) are one run.

    Returns:
        The exit status: 0, 1 after an error the user can correct, 75 after one that time corrects,
        130 after Ctrl-C.

    Raises:
        SystemExit: With status 2 on wrong usage and 0 after --help.
    """
    command = _importable(command)
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser(command, gin_file, "-h" in argv or "--help" in argv)
    startup.add_flags(parser)
    if add_flags:
        add_flags(parser)
    has_own = "dry_run" in inspect.signature(command).parameters
    if not has_own:
        parser.add_argument(
            "--dry_run", action="store_true", help="check the configuration, print it, do no more"
        )

    def call() -> None:
        flags, others = parse_flags(parser, argv)
        only_check = not has_own and vars(others).pop("dry_run")
        if not flags.files and not flags.bindings:
            parser.error(f"give a gin file, for example --gin_file={gin_file}")
        process_flags = startup.take_flags(others)
        given = {name: value for name, value in vars(others).items() if value is not None}
        parse(flags.files, flags.bindings, flags.search_paths, command, tuple(given))
        if only_check:
            terminal.show(*operative_config().splitlines())
            return
        with startup.process(process_flags, joins_cluster):
            multihost.check_same({"config": operative_config()})
            binding.register(command)(**given)

    return terminal.exit_status(call)


class GinFlags(NamedTuple):
    """What a command line says to gin; see `parse`."""

    files: list[str]
    bindings: list[str]
    search_paths: list[str]


def gin_flags() -> argparse.ArgumentParser:
    """Returns the flags of every command that reads gin, as a parent of its parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="gin file to read; repeat it for more, later ones override earlier ones",
    )
    parser.add_argument(
        "--gin_search_paths",
        action="append",
        default=[],
        metavar="DIR,DIR",
        help="directories in which gin files are looked up first",
    )
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="sets a macro or a parameter; --gin.NAME=VALUE is the same",
    )
    return parser


def parse_flags(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[GinFlags, argparse.Namespace]:
    """Parses a command line; `parser` has `gin_flags` as a parent.

    Returns:
        What is for gin, and the other flags.

    Raises:
        SystemExit: With status 2 on wrong usage and 0 after --help.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        others = parser.parse_args(
            terminal.spell_switches(parser, [_rewrite(argument) for argument in argv])
        )
    except argparse.ArgumentError as error:
        parser.error(str(error))
    values = vars(others)
    paths = _split_paths(values.pop("gin_search_paths"))
    return GinFlags(values.pop("gin_file"), values.pop("gin_bindings"), paths), others


def _split_paths(groups: Sequence[str]) -> list[str]:
    return [path for group in groups for path in group.split(",") if path]


def _importable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function by that name in the imported module.

    `python -m t5x_ext.train` runs the module as __main__, while gin files import t5x_ext.train: two
    modules with two functions. Only the imported one's is ever configured and called.
    """
    if command.__module__ != "__main__":
        return command
    main = sys.modules["__main__"]
    spec, path = getattr(main, "__spec__", None), Path(getattr(main, "__file__", "")).resolve()
    if spec is not None:
        name = spec.name
    elif path.parent == _PACKAGES / "t5x_ext":  # `python t5x_ext/train.py`
        name = f"t5x_ext.{path.stem}"
    else:
        return command
    return getattr(importlib.import_module(name), command.__name__)


def _rewrite(argument: str) -> str:
    """Turns T5X's `--gin.NAME=VALUE` into `--gin_bindings=NAME = VALUE`.

    Raises:
        argparse.ArgumentError: It is not written so.
    """
    if not argument.startswith("--gin."):
        return argument
    name, equals, value = argument.removeprefix("--gin.").partition("=")
    if not (name and equals):
        raise argparse.ArgumentError(None, f"{argument}: write --gin.NAME=VALUE")
    return f"--gin_bindings={name} = {value}"


def _parser(command: Callable[..., Any], gin_file: str, with_help: bool) -> argparse.ArgumentParser:
    name = command.__module__.rpartition(".")[2]
    summary = (inspect.getdoc(command) or "").split("\n\n")[0]
    return terminal.Parser(
        name,
        summary,
        usage=f"t5x_ext {name} --gin_file=FILE [--gin.NAME=VALUE ...] [options]",
        epilog=_epilog(name, gin_file) if with_help else None,
        parents=[gin_flags()],
    )


def _epilog(name: str, gin_file: str) -> str:
    """A shipped run file's first comment, and the macros it leaves open with theirs."""
    source = read_file(gin_file, [str(_PACKAGES), str(_SHIPPED)])
    bindings = list(source.bindings())
    macros = {item.name: item for item in bindings if item.is_macro}
    lines = [f"{source.path}:"]
    for line in itertools.takewhile(lambda line: line[0] == "#", linecache.getlines(source.path)):
        lines.append(f" {line[1:]}".rstrip())
    lines += ["", "macros that must be set with it:"]
    used = {s.name for item in bindings for s in symbols(item.value) if isinstance(s, Macro)}
    for macro in sorted(used - set(macros) - set(checks.REQUIRED_NAMES)):
        lines.append(f"  {macro:<24}by one more gin file, or on the command line")
    example = [f"--gin_file={gin_file}"]
    if "MODEL" in used - set(macros):
        example.insert(0, "--gin_file=models/t5_1_1_small.gin")
    for item in macros.values():
        if item.is_required:
            path, _, line = item.place.rpartition(":")
            comment = linecache.getline(path, int(line)).partition("#")[2].strip()
            lines.append(f"  {item.name:<24}{comment}".rstrip())
            example.append(f"--gin.{item.name}=...")
    lines += ["", "example (strings keep their quotes: --gin.MODEL_DIR='\"runs/model\"'):"]
    lines.append(f"  t5x_ext {name} " + " \\\n      ".join(example))
    return "\n".join(lines)
