"""The commands of README, quickstart and the pages on own tasks and models, as readers run them.

A page becomes one shell script, top to bottom, in a directory that looks like a fresh clone whose
installation is done. What is changed for the test is in `REPLACED`, what is left out in `NOT_RUN`,
each with its reason; every other command runs as it stands.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import compilers
import jax
import pytest
from pages import PROGRAMS, REPO, Command, blocks, commands
from small_models import CHAT, save_small_chat_model

from mixtures.vocabularies import bundled_vocabulary, open_vocabulary
from t5x_ext import Model
from t5x_ext.models import network, parameters
from t5x_ext.partitioning import PjitPartitioner

PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/your_own_tasks.md",
    "docs/your_own_model.md",
    "docs/decoder_only.md",
    "docs/writing.md",
)

TINY = {
    "vocab_size": 896,
    "emb_dim": 16,
    "num_heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "head_dim": 8,
    "mlp_dim": 32,
}
SMALL_STUDY = 'FLAGS="--gin_file=docs/examples/tiny_study.gin"'
SHORT_RUN = (
    """--gin.TASK_FEATURE_LENGTHS="{'inputs': 96, 'targets': 16}" --gin.TRAIN_STEPS=2"""
    """ --gin.MODEL_DIR="'runs/short'" """
)
NEW_RUN = "--gin_file=models/t5_1_1_tiny.gin --gin_file=runs/train.gin " + SHORT_RUN

# page -> (text in a command, what stands for it here, why)
REPLACED = {
    "README.md": [
        ("make quickstart", f"make quickstart {SMALL_STUDY}", "8 minutes"),
        ("--gin.BUDGET=100", "--gin.BUDGET=2", "875 steps"),
        (
            """ --gin.VOCABULARY_PATH="'downloads/tk3b'" ...""",
            """ --gin.VOCABULARY_PATH="'downloads/tk3b'" --gin.MIXTURE_OR_TASK_NAME="'held_in'" """
            + SHORT_RUN.replace("STEPS", "STEPS_RELATIVE").replace("short", "tk3b")
            + " ".join(f"--gin.network.T5Config.{name}={size}" for name, size in TINY.items()),
            "a download of 11 GB, and what the page leaves open",
        ),
        (
            "train ... --gin.MIXTURE_OR_TASK_NAME=\"'my_task.jsonl'\"",
            f"train {NEW_RUN} --gin.MIXTURE_OR_TASK_NAME=\"'my_task.jsonl'\"",
            "what the page leaves open",
        ),
    ],
    "docs/quickstart.md": [
        ("make quickstart", f"make quickstart {SMALL_STUDY}", "8 minutes"),
    ],
    "docs/your_own_tasks.md": [],
    "docs/your_own_model.md": [],
    "docs/writing.md": [
        ("--gin.TRAIN_STEPS=400", "--gin.TRAIN_STEPS=2", "a minute"),
        ("polite_study.gin", "polite_study.gin --gin.STEPS=2", "two minutes"),
    ],
    "docs/decoder_only.md": [
        ("models/smollm2_135m.gin", "small.gin", "a small model stands for what is fetched"),
    ],
}
# page -> {command begins with: why it is not run}
NOT_RUN = {
    "README.md": {
        "make test": "it is this suite",
        "python -m t5x_ext.study --gin_file=studies/superni_tiny.gin": (
            "45 minutes; `make quickstart` is the same command on another gin file, and"
            " tests/test_gin_configs.py reads this one"
        ),
        "python -m t5x_ext.train \\\n    --gin_file=models/smollm2_135m.gin": (
            "what `make smollm2` fetches; tests marked `smollm2` tune that model"
        ),
    },
    "docs/quickstart.md": {
        'git clone "$REPOSITORY"': "the directory of the test stands for the clone",
        "cd t5x_ext": "likewise",
    },
    "docs/your_own_tasks.md": {
        "python -m mixtures.super_natural_instructions": (
            "a bucket; tests/mixtures/test_tfds_builder.py builds on disk"
        ),
    },
    "docs/your_own_model.md": {},
    "docs/writing.md": {
        "python - <<'PYTHON'\nfrom mixtures.writing.tasks": (
            "tests/mixtures/writing/test_tasks.py mixes by shares"
        ),
        "python -m t5x_ext.audit": "the published sets; tests/audits/test_audit_writing.py does",
        "python -m t5x_ext.study --gin_file=studies/writing_tiny.gin": "minutes",
        "python -m t5x_ext.study --gin_file=studies/writing_smollm2.gin": (
            "hours, and the published sets"
        ),
    },
    "docs/decoder_only.md": {
        "make smollm2": "a download of 93 MB",
        "python -m t5x_ext.convert --to hf model.gguf": "tests/checkpoints/test_gguf.py does",
    },
}


def prepared(page: str) -> list[Command]:
    """The commands of a page that are run, as they are run."""
    found = []
    for command in commands(REPO / page):
        text = command.text
        if text.startswith(tuple(NOT_RUN[page])):
            continue
        for old, new, _ in REPLACED[page]:
            text = text.replace(old, new)
        found.append(Command(text, command.output))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_or_listed(page: str) -> None:
    texts = [command.text for command in commands(REPO / page)]
    assert texts
    for old, _, _ in REPLACED[page]:
        assert any(old in text for text in texts), f"{page} does not have {old}"
    for start in NOT_RUN[page]:
        assert any(text.startswith(start) for text in texts), f"{page} does not have {start}"
    for command in prepared(page):
        assert not re.search(r" \.\.\.( |$)", command.text), f"left open: {command.text}"
    for block in blocks(REPO / page):
        if block.info not in ("bash", "console"):
            assert not re.search(rf"^{PROGRAMS}", block.text, re.MULTILINE), block.text


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory like a clone after `make` has installed: links to the tree, and a `.venv`."""
    directory = tmp_path / "clone"
    directory.mkdir()
    for path in REPO.iterdir():
        if not path.name.startswith(".") and path.name != "runs":
            (directory / path.name).symlink_to(path)
    venv.create(directory / ".venv", symlinks=True)
    (packages,) = (directory / ".venv").glob("lib/python3.*/site-packages")
    here = sysconfig.get_paths()["purelib"]
    (packages / "these.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    (directory / ".venv" / ".installed").touch()
    return directory


def save_tiny_models(directory: Path) -> None:
    """Models of random parameters where the pages say that downloads lie."""
    config = network.T5Config(**TINY, mlp_activations=("gelu", "linear"))
    values = parameters.init_params(network.Transformer(config).specs, jax.random.key(0))
    model = Model(config, values, bundled_vocabulary(), PjitPartitioner())
    for name in ("flan-t5-base", "tk3b"):
        model.save(str(directory / name), "hf")


def run_page(page: str, directory: Path) -> None:
    """Runs a page's commands in one shell and holds them to what the page says they print."""
    for block in blocks(REPO / page):
        _, is_file, name = block.info.partition(" file=")
        if is_file:
            (directory / name).write_text(block.text)
    script = ["set -u"]
    for number, command in enumerate(prepared(page)):
        fails = "" if command.output is None else f" || echo '@@ status {number}'"
        check = "" if fails else "\n[ $? = 0 ] || exit 1"
        script.append(f"echo '@@ {number}'\n{{ {command.text}\n}}{fails}{check}")
    environment = os.environ | {
        "PATH": f"{directory / '.venv' / 'bin'}:{os.environ['PATH']}",
        "XLA_FLAGS": compilers.UNOPTIMISED,  # one device, as a laptop has
    }
    environment.pop("SUPERNI_DIR", None)
    (directory / "page.sh").write_text("\n".join(script))
    done = subprocess.run(
        ["bash", "page.sh"],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    printed = re.split(r"^@@ \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    for number, (command, output) in enumerate(zip(prepared(page), printed, strict=True)):
        if command.output is not None:
            assert output.strip() == f"{command.output}\n@@ status {number}", command.text


@pytest.mark.long
def test_readme(clone: Path) -> None:
    save_tiny_models(clone / "downloads")
    (clone / "my_task.jsonl").write_text(
        '{"instruction": "Say it in French.", "input": "cat", "output": "chat"}\n' * 40
    )
    run_page("README.md", clone)
    assert (clone / "runs" / "quickstart" / "report" / "index.html").is_file()
    assert (clone / "exported" / "model.safetensors").is_file()


@pytest.mark.long
def test_quickstart(clone: Path) -> None:
    run_page("docs/quickstart.md", clone)
    predictions = clone / "runs" / "cities" / "test" / "predictions.jsonl"
    assert len(predictions.read_text().splitlines()) == 4


@pytest.mark.slow
def test_your_own_tasks(clone: Path) -> None:
    run_page("docs/your_own_tasks.md", clone)
    predictions = clone / "runs" / "french" / "test" / "predictions.jsonl"
    assert len(predictions.read_text().splitlines()) == 2


@pytest.mark.slow
def test_writing(clone: Path) -> None:
    run_page("docs/writing.md", clone)
    predictions = clone / "runs" / "writer" / "polite" / "predictions.jsonl"
    assert json.loads(predictions.read_text().splitlines()[1])["source"] == "Please feed the duck."
    report = (clone / "runs" / "polite" / "report" / "report.md").read_text()
    assert "| polite | 4 |" in report and "| writing | 6,000 (1,000 per task) |" in report
    results = [json.loads(p.read_text()) for p in clone.glob("runs/polite/cells/*/result.json")]
    assert len(results) == 4
    for result in results:
        assert any(key.startswith("sari") for key in result["scores"]["by_task"]["polite.jsonl"])
        assert "cleaned_answers" in result  # of all three sets


@pytest.mark.slow
def test_your_own_model(clone: Path) -> None:
    run_page("docs/your_own_model.md", clone)
    for kind in ("my_nnx", "my_linen"):
        assert (clone / "runs" / kind / "checkpoint_3").is_dir()
        assert (clone / "runs" / kind / "predictions" / "predictions.jsonl").stat().st_size > 0


@pytest.mark.slow
def test_decoder_only(clone: Path) -> None:
    (clone / "downloads").unlink(missing_ok=True)
    save_small_chat_model(clone / "downloads" / "smollm2")
    run_page("docs/decoder_only.md", clone)
    predictions = clone / "runs" / "smollm2_cities" / "test" / "predictions.jsonl"
    (first, _) = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert first["inputs"].startswith("<|im_start|>user\nName the city in the text.\n\nTom lives")
    exported = clone / "exported" / "smollm2_cities"
    assert open_vocabulary(str(exported)).chat_template.source == CHAT["chat_template"]
    # Or transformers would generate for ever.
    assert json.loads((exported / "generation_config.json").read_text())["eos_token_id"] == 1
