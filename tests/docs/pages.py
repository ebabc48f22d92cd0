"""Fenced blocks of a Markdown page, and the page as one shell script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

# What begins a command line; where one stands in a block, the block has to say `bash`.
PROGRAMS = r"(python3?|make|t5x_ext|git|pip|hf|cd|\.|\$) "


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands after the fence, and its text."""

    info: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a page, and what the page says it prints (None: nothing is said)."""

    text: str
    output: str | None = None


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks in order."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(info.strip(), text) for info, text in found]


def commands(page: Path) -> list[Command]:
    """Every command of the page: blocks of `bash`, `console` and `python`."""
    found: list[Command] = []
    for block in blocks(page):
        if block.info == "bash":
            found += [Command(text) for text in _split(block.text)]
        elif block.info == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                text, _, output = part.partition("\n")
                found.append(Command(text, output.rstrip()))
        elif block.info == "python":
            found.append(Command(f"python - <<'PYTHON'\n{block.text}PYTHON"))
    return found


def _split(text: str) -> Iterator[str]:
    """Shell commands, one a line; a line ends after its continuations and its here-document."""
    lines = iter(text.splitlines())
    for line in lines:
        while line.endswith("\\"):
            line += "\n" + next(lines)
        here = re.search(r"<<'(\w+)'", line)
        while here and line.splitlines()[-1] != here[1]:
            line += "\n" + next(lines)
        if line.strip():
            yield line
