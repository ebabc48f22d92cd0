"""Reads gin files into statements that know their place, before anything is imported or bound.

Gin itself resolves every name while it parses, so a misspelt macro would be noticed only after
all imports of all files have run, and without its line. Here gin's own parser is given a delegate
that leaves references symbolic: what can be checked on the text alone is checked first.
"""

from __future__ import annotations

import dataclasses
import io
import os
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from t5x_ext import files
from t5x_ext.errors import ConfigError, nearest

COMMAND_LINE = "--gin."
REQUIRED_NAMES = ("gin.REQUIRED", "REQUIRED")


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@scope/selector` or `@scope/selector()`."""

    selector: str
    evaluate: bool


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%name`: a macro or a gin constant."""

    name: str


@dataclasses.dataclass(frozen=True)
class Binding:
    """`scope/selector.parameter = value`, or `name = value` where `parameter` is empty."""

    scope: str
    selector: str
    parameter: str
    value: Any
    place: str

    @property
    def name(self) -> str:
        """The left-hand side as written."""
        scoped = f"{self.scope}/{self.selector}" if self.scope else self.selector
        return f"{scoped}.{self.parameter}" if self.parameter else scoped

    @property
    def is_macro(self) -> bool:
        return not self.parameter

    @property
    def is_required(self) -> bool:
        """Whether the value is `%gin.REQUIRED`: declared, to be set elsewhere."""
        return isinstance(self.value, Macro) and self.value.name in REQUIRED_NAMES


@dataclasses.dataclass(frozen=True)
class Import:
    statement: config_parser.ImportStatement
    place: str


@dataclasses.dataclass(frozen=True)
class BlockHead:
    """The head of an indented block of bindings."""

    selector: str
    place: str


@dataclasses.dataclass(frozen=True)
class GinFile:
    """One gin file, or all bindings of the command line; included files are nested in place."""

    path: str
    statements: tuple[Binding | Import | BlockHead | GinFile, ...]

    def bindings(self) -> Iterator[Binding]:
        """Yields the bindings of this source and of what it includes, in order of effect."""
        for statement in self.statements:
            if isinstance(statement, GinFile):
                yield from statement.bindings()
            elif isinstance(statement, Binding):
                yield statement

    def files(self) -> Iterator[GinFile]:
        """Yields this source and every included one."""
        yield self
        for statement in self.statements:
            if isinstance(statement, GinFile):
                yield from statement.files()


class _SymbolicDelegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def symbols(value: Any) -> Iterator[Reference | Macro]:
    """Yields the references and macros anywhere inside a bound value."""
    if isinstance(value, Reference | Macro):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from symbols(key)
            yield from symbols(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from symbols(item)


def read_file(
    name: str,
    search_paths: Sequence[str],
    asked_at: str = "--gin_file",
    including: tuple[str, ...] = (),
) -> GinFile:
    """Reads a gin file and everything it includes.

    Args:
        name: Path of the file, absolute or relative to one of the search paths.
        search_paths: Directories to look in, first match wins.
        asked_at: Place that names the file, for the message if it is not found.
        including: Paths of the files that led here, outermost first.

    Returns:
        The file as a tree of statements.

    Raises:
        ConfigError: The file is not found, includes itself, or is not valid gin.
    """
    path = _find(name, search_paths, asked_at)
    if path in including:
        raise ConfigError(f"{asked_at}: '{name}' includes itself: {' -> '.join(including)}")
    try:
        text = files.read_text(path)
    except ConfigError as error:
        raise ConfigError(f"{asked_at}: {error}") from None
    parsed = _parse(text, path)
    statements: list[Binding | Import | BlockHead | GinFile] = []
    for statement in parsed:
        place = f"{path}:{statement.location.line_num}"
        if isinstance(statement, config_parser.IncludeStatement):
            included = read_file(statement.filename, search_paths, place, (*including, path))
            statements.append(included)
        else:
            statements.append(_own_statement(statement, place))
    return GinFile(path, tuple(statements))


def read_bindings(bindings: Sequence[str]) -> GinFile:
    """Reads the bindings given on the command line.

    Args:
        bindings: Texts of the form `NAME = VALUE`.

    Returns:
        One source that holds all of them.

    Raises:
        ConfigError: A binding is not valid gin.
    """
    statements = []
    for text in bindings:
        name, _, value = (part.strip() for part in text.partition("="))
        try:
            parsed = _parse(text, COMMAND_LINE + name)
        except ConfigError as error:
            raise ConfigError(
                f"{error}: {value!r} is not a gin value; a string needs quotes that the shell "
                f"leaves alone: {COMMAND_LINE}{name}='\"{value}\"'"
            ) from None
        for statement in parsed:
            if isinstance(statement, config_parser.IncludeStatement):
                raise ConfigError(f"{COMMAND_LINE}{text}: use --gin_file to read another file")
            statements.append(_own_statement(statement, COMMAND_LINE + name))
    return GinFile("command line", tuple(statements))


def _find(name: str, search_paths: Sequence[str], asked_at: str) -> str:
    files.path(name, asked_at)
    for directory in [""] if os.path.isabs(name) else search_paths:
        path = os.path.join(directory, name)
        if os.path.exists(path) and not os.path.isdir(path):
            return path
    searched = [os.path.abspath(directory) for directory in search_paths]
    beside = {
        str(Path(name).parent / found.name)
        for directory in searched
        for found in Path(directory, name).parent.glob("*.gin")
    }
    raise ConfigError(
        f"{asked_at}: no file '{name}' in {', '.join(dict.fromkeys(searched))}"
        f"{_advice(name) or nearest(name, beside)}"
    )


def _advice(name: str) -> str:
    """Which files of this package stand for those of T5X."""
    if not name.startswith("t5x/"):
        return ""
    return (
        "; give your copy's directory in --gin_search_paths or write "
        + (
            "gin_configs/runs/ for t5x/configs/runs/"
            if name.startswith("t5x/configs/")
            else "gin_configs/models/t5_1_1_base.gin for t5x/examples/t5/t5_1_1/base.gin"
        )
        + ", see docs/from_t5x.md"
    )


def _parse(text: str, path: str) -> list[Any]:
    parser: config_parser.ConfigParser | None = None
    try:
        parser = config_parser.ConfigParser(io.StringIO(text), _SymbolicDelegate())
        return list(parser)
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError) as error:
        if isinstance(error, SyntaxError):
            message, line = error.msg, error.lineno
        elif isinstance(error, tokenize.TokenError):
            message, (line, _) = error.args
        else:  # a key of a dict that cannot be one, or a nesting that is too deep
            message, line = str(error), parser.current_token.start[0] if parser else 1
        place = path if path.startswith(COMMAND_LINE) else f"{path}:{line}"
        raise ConfigError(f"{place}: {message.splitlines()[-1].strip().rstrip('.')}") from None


def _own_statement(statement: Any, place: str) -> Binding | Import | BlockHead:
    if isinstance(statement, config_parser.ImportStatement):
        return Import(statement, place)
    if isinstance(statement, config_parser.BlockDeclaration):
        return BlockHead(statement.selector, place)
    return Binding(statement.scope, statement.selector, statement.arg_name, statement.value, place)
