"""T5X's own gin files with the import lines of docs/from_t5x.md."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixtures.vocabularies import bundled_vocabulary

HERE = Path(__file__).parent
UPSTREAM = HERE / "t5x_contract"
PAGE = (HERE.parent / "docs" / "from_t5x.md").read_text()

# As T5X users shrink a run: scopes and bindings, and their own vocabulary.
SMALL = """
from __gin__ import dynamic_registration

import __main__ as train_script
import seqio
from t5x import utils

seqio.SentencePieceVocabulary.sentencepiece_model_file = "{vocabulary}"
MIXTURE_OR_TASK_NAME = "contract_reverse"
MIXTURE_OR_TASK_MODULE = "contract_tasks"
USE_CACHED_TASKS = False
TASK_FEATURE_LENGTHS = {{"inputs": 32, "targets": 32}}

train/utils.DatasetConfig.batch_size = 8
train_eval/utils.DatasetConfig.batch_size = 8
train_script.train.stats_period = 1
"""
SMALL_DECODING = """
MIXTURE_OR_TASK_NAME = "contract_reverse"
MIXTURE_OR_TASK_MODULE = "contract_tasks"
SentencePieceVocabulary.sentencepiece_model_file = "{vocabulary}"
DROPOUT_RATE = 0.0
"""


def ported(text: str) -> str:
    """A file of T5X's with its import lines changed by the command that the page gives."""
    (pattern, new) = re.findall(r"^    sed -E -i 's/(.*)/(.*)/' \*\.gin$", PAGE, re.MULTILINE)[0]
    return re.sub(pattern, new, text, flags=re.MULTILINE)


def spelt_out(text: str) -> str:
    """The same with the lines of the table's third column, which work as well."""
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| `([^`]+)` \|$", PAGE, re.MULTILINE)
    table = dict(rows)
    lines = [table.get(line, line) for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def write_ported(root: Path) -> Path:
    """The upstream files, ported, in a directory for --gin_search_paths."""
    for path in UPSTREAM.rglob("*.gin"):
        target = root / path.relative_to(UPSTREAM)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(ported(path.read_text()))
    vocabulary = bundled_vocabulary().path
    (root / "small.gin").write_text(ported(SMALL.format(vocabulary=vocabulary)))
    (root / "small_decoding.gin").write_text(SMALL_DECODING.format(vocabulary=vocabulary))
    return root


@contextmanager
def task_module() -> Iterator[None]:
    """The tasks that the files name can be imported."""
    sys.path.insert(0, str(UPSTREAM))
    yield
    sys.path.remove(str(UPSTREAM))


def flags(files: Path, run: str, small: str, model: str = "t5_1_1", **macros: object) -> list[str]:
    return [
        f"--gin_search_paths={files}",
        f"--gin_file=t5x/examples/t5/{model}/tiny.gin",
        f"--gin_file=t5x/configs/runs/{run}.gin",
        f"--gin_file={small}.gin",
        *(f"--gin.{name}={value!r}" for name, value in macros.items()),
    ]
