"""docs/writing.md: its examples run and print what the page says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pages import REPO, blocks


@pytest.mark.slow
def test_examples_print_what_the_page_says() -> None:
    code = [
        block.text for block in blocks(REPO / "docs" / "writing.md") if block.info == "python run"
    ]
    environment = {name: value for name, value in os.environ.items() if name != "WRITING_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = done.stdout.split("\n")
    assert "### Instruction:" in printed
    assert "Make the text more concise and readable." in printed
    assert "He can't swim, but he cannot sink." in printed
    assert "He ca n't swim , and he can not dive ." in printed
