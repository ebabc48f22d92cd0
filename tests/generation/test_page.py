"""docs/self_specialization.md: its files and its program work as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def test_the_page_works_from_top_to_bottom(tmp_path: Path) -> None:
    page = (REPO / "docs" / "self_specialization.md").read_text()
    for name, content in re.findall(r"```jsonl file=(\S+)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(content)
    (program,) = re.findall(r"```python run\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"```bash\npython -m (t5x_ext.audit .*?)\n```", page, re.DOTALL)
    environment = {"PYTHONPATH": str(REPO), "PATH": "", "T5X_EXT_CACHE": str(tmp_path)}
    printed = [
        subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for arguments in (["-c", program], ["-m", *command.split()])
    ]
    said = re.findall(r"^# (Counter.*)$", program, re.MULTILINE)
    assert printed[0].splitlines() == said
    assert printed[1].startswith("1 synthetic rows")
    [row] = (tmp_path / "runs" / "harbour" / "round1" / "responses.jsonl").read_text().splitlines()
    assert [passage["id"] for passage in json.loads(row)["passages"]] == ["p0"]
