"""How a command speaks and how it ends: one way for all of them, whatever it is given.

What is shown often comes from files that somebody else wrote. Everything is written line by line
with control characters escaped, so that a task's name cannot move the cursor, ring the bell or pass
for a line of our own, and in what the terminal can encode. A reader that has enough (`| head -1`),
a full disk and Ctrl-C, twice or while modules are imported, end the command in one way each.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn, TextIO

from t5x_ext.errors import ConfigError, TryAgain, nearest, printable

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130  # exit statuses as shells report them: 128 + SIGINT
OUTPUT_CLOSED = 141  # 128 + SIGPIPE
# What a disk may do to any command at any time, and what a path may turn out to be.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ESTALE}
_DISK_ERRORS |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}

# Characters written at a time. With PYTHONUNBUFFERED, Python ignores how much of a longer text a
# pipe took before it was closed; up to 4,096 bytes go as a whole, or fail.
_PIECE = 1024

# As absl reads them.
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def show(*lines: object) -> None:
    """Writes lines to standard output; a line break inside one of them is escaped.

    Raises:
        SystemExit: With status 141, quietly, when whoever reads the output has closed it.
        ConfigError: The output cannot be written: it is a file on a full disk.
    """
    _write("".join(f"{printable(str(line))}\n" for line in lines))


def show_json(value: object) -> None:
    """Writes a value to standard output as one line of ASCII JSON; raises as `show` does."""
    # DEL is the one control character that JSON allows as it is.
    _write(json.dumps(value).replace("\x7f", "\\u007f") + "\n")


def note(*lines: object, stream: TextIO | None = None) -> None:
    """Writes lines to standard error; if nobody can read them, the work continues without.

    Args:
        lines: As of `show`.
        stream: Another stream to write to.
    """
    stream = stream or sys.stderr
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.write("".join(f"{printable(str(line))}\n" for line in lines))
            stream.flush()


def _write(text: str) -> None:
    stream = sys.stdout
    if stream is None:  # the command was started with standard output closed
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        for start in range(0, len(text), _PIECE):
            stream.write(text[start : start + _PIECE])
        stream.flush()
    except OSError as error:
        give_up(stream, error)


def give_up(stream: TextIO, error: OSError) -> NoReturn:
    """Ends a command that cannot write its output; raises as `show` does.

    Args:
        stream: Standard output.
        error: What writing to it has raised.
    """
    # The interpreter flushes the stream again when it exits, and must not fail again.
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
    if isinstance(error, BrokenPipeError):
        raise SystemExit(OUTPUT_CLOSED) from None
    raise ConfigError(f"standard output: cannot be written ({error.strerror})") from None


class Parser(argparse.ArgumentParser):
    """A command's flags. `--help` shows the title of its module's docstring first, the rest last.

    Flags are not abbreviated: one that is added later must not change what a script means.
    """

    def __init__(self, command: str, doc: str | None, **settings: Any) -> None:
        """Starts a parser.

        Args:
            command: Name of the command; that of a module, such as `mixtures.writing`, where it is
                called by `python -m`.
            doc: The docstring; None under `python -OO`.
            settings: As for `argparse.ArgumentParser`.
        """
        title, _, rest = (doc or "").partition("\n\n")
        settings = {"description": title, "epilog": rest} | settings
        super().__init__(
            prog=f"python -m {command}" if "." in command else f"t5x_ext {command}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **settings,
        )

    def print_help(self, file: Any = None) -> None:
        """Shows the help; argparse itself would pass over an output that cannot be written."""
        if file is not None:
            super().print_help(file)
        else:
            show(*self.format_help().rstrip("\n").split("\n"))

    def error(self, message: str) -> NoReturn:
        """Shows usage and the message, in which arguments are quoted, and exits with status 2."""
        super().error(printable(message))


def spell_switches(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Takes boolean flags as absl has them: `--dry_run=true`, `--dry_run=false`, `--nodry_run`.

    Args:
        parser: Its flags without a value are the boolean ones.
        argv: A command line.

    Returns:
        The other arguments, and the flags that are on in the end.

    Raises:
        argparse.ArgumentError: A value is no boolean.
    """
    switches = {
        option: action
        for action in parser._actions
        if action.const is True and action.nargs == 0
        for option in action.option_strings
    }
    off = {f"--no{option.removeprefix('--')}": option for option in switches}
    others, is_on = [], {}
    for argument in argv:
        option, equals, value = argument.partition("=")
        if argument in off:
            is_on[off[argument]] = False
        elif option not in switches:
            others.append(argument)
        elif not equals or value.lower() in _TRUE:
            is_on[option] = True
        elif value.lower() in _FALSE:
            is_on[option] = False
        else:
            problem = f"{value!r}; allowed: true, false"
            raise argparse.ArgumentError(switches[option], problem)
    return [*others, *(option for option, value in is_on.items() if value)]


def names_flag(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """The `type` of a flag that takes a comma-separated list of names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r}{nearest(name, allowed)}")
        return names

    return parse


def command(main: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
    """Decorates a command's `main(argv)`, which then returns the exit status; see `exit_status`."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        return exit_status(lambda: main(argv))

    return run


def exit_status(call: Callable[[], int | None]) -> int:
    """Runs a command and turns what users cause or can correct into one line on standard error.

    Args:
        call: The command; what it returns is its exit status, None for 0.

    Returns:
        The exit status: 1 after a `ConfigError` or `mixtures.errors.DataError`, when a disk is full
        or may not be written, or when memory does not suffice; 75 after a `TryAgain`; 130 after
        Ctrl-C. Other exceptions are defects and pass through with their traceback.

    Raises:
        SystemExit: With status 0 after --help, 2 on wrong usage, 141 where the reader of the
            output closed it.
    """
    with _Interrupts() as interrupts:
        try:
            return call() or 0
        except KeyboardInterrupt:
            pass
        except Exception as error:
            # Native code that is interrupted may raise another error instead.
            if not interrupts.seen:
                note(f"error: {_explain(error)}")
                return TRY_AGAIN if isinstance(error, TryAgain) else 1
        note("interrupted")
        return INTERRUPTED


def _explain(error: Exception) -> str:
    """The line that is shown for an error; raises it again where it is a defect."""
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}"
    cause: BaseException = error
    if isinstance(error, OSError):
        # What gin raises instead, to say in which call, has neither number nor file name.
        if error.errno is None and isinstance(error.__context__, OSError):
            cause = error.__context__
        if isinstance(cause, OSError) and cause.errno in _DISK_ERRORS:
            return f"{cause.filename or 'a file'}: {cause.strerror}"
    # What has met a bucket has imported how to read its errors.
    buckets = sys.modules.get("mixtures.files")
    problem = buckets and buckets.bucket_problem(cause)
    if problem:
        return f"{getattr(cause, 'filename', None) or 'a bucket'}: {problem}"
    # A DataError can only be where its module has been imported.
    data_errors = sys.modules.get("mixtures.errors")
    known = (ConfigError, data_errors.DataError) if data_errors else (ConfigError,)
    if not isinstance(error, known):
        raise error
    # Gin adds lines on the call in which the error came up.
    return str(error).split("\n", 1)[0]


class _Interrupts:
    """Ctrl-C while a command runs: the first asks it to end, the next one ends it at once.

    Attributes:
        seen: whether there was one.
    """

    def __init__(self) -> None:
        self.seen = False
        self._before: Any = None

    def __enter__(self) -> _Interrupts:
        # Shells have background jobs ignore SIGINT, and other threads cannot set handlers.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) != signal.SIG_IGN
        ):
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None and not self.seen:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            _end_now(number, frame)
        self.seen = True
        raise KeyboardInterrupt


def end_quietly_while_importing() -> None:
    """Makes Ctrl-C end the process with one line until `exit_status` takes over.

    A command imports for seconds before its first statement. Nothing has begun then that could be
    left half done, and interrupted imports of native code fail in many ways.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_now)


def _end_now(number: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
