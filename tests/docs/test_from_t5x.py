"""docs/from_t5x.md against the code: imports, flags, and every binding of its tables."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator

import pytest
from pages import REPO
from test_help import help_of

from t5x_ext.gin_strict.t5x_bindings import RULES

PAGE = (REPO / "docs" / "from_t5x.md").read_text()

# What the page calls a thing -> where it is.
PLACES = {
    "train": "t5x_ext.train:train",
    "evaluate": "t5x_ext.eval:evaluate",
    "infer": "t5x_ext.infer:infer",
    "DatasetConfig": "t5x_ext.configs:DatasetConfig",
    "CheckpointConfig": "t5x_ext.configs:CheckpointConfig",
    "RestoreCheckpointConfig": "t5x_ext.configs:RestoreCheckpointConfig",
    "SaveCheckpointConfig": "t5x_ext.configs:SaveCheckpointConfig",
    "create_learning_rate_scheduler": "t5x_ext.configs:create_learning_rate_scheduler",
    "standard_logical_axis_rules": "t5x_ext.partitioning:standard_logical_axis_rules",
    "HParamMap": "t5x_ext.training.adafactor:HParamMap",
    "Trainer": "t5x_ext.training.trainer:Trainer",
    "PjitPartitioner": "t5x_ext.partitioning:PjitPartitioner",
    "ModelBasedPjitPartitioner": "t5x_ext.partitioning:ModelBasedPjitPartitioner",
    "seqio.Evaluator": "t5x_ext.seqio:Evaluator",
    "seqio.JSONLogger": "t5x_ext.seqio:JSONLogger",
    "seqio.SentencePieceVocabulary": "t5x_ext.seqio:SentencePieceVocabulary",
    "seqio.ByteVocabulary": "t5x_ext.seqio:ByteVocabulary",
    "EncoderDecoderModel": "t5x_ext.models:EncoderDecoderModel",
    "EncoderDecoderModel.predict_batch_with_aux": (
        "t5x_ext.models:EncoderDecoderModel.predict_batch_with_aux"
    ),
    "Transformer": "t5x_ext.models.network:Transformer",
    "T5Config": "t5x_ext.models.network:T5Config",
    "Adafactor": "t5x_ext.training.adafactor:Adafactor",
    "adafactor.standard_logical_factor_rules": (
        "t5x_ext.training.adafactor:standard_logical_factor_rules"
    ),
    "beam_search": "t5x_ext.decoding:beam_search",
    "temperature_sample": "t5x_ext.decoding:temperature_sample",
}


def place(name: str) -> object:
    """The class or function that the page calls `name`."""
    module, _, path = PLACES[name].partition(":")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def bindings() -> Iterator[tuple[str, str]]:
    """(owner, parameter) of every row; parameter '' where a row is about the owner itself."""
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        if section.startswith("Bindings that have no parameter"):
            continue
        commands = re.findall(r"`(train|evaluate|infer)`", section.splitlines()[0])
        for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
            owner = ""
            for name in re.findall(r"`([\w.*]+)`", cell):
                if name in PLACES:
                    yield name, ""
                elif "." in name:
                    owner, _, parameter = name.rpartition(".")
                    yield owner, parameter
                else:  # of the row's owner, else of the section's commands
                    for each in [owner] if owner else commands:
                        yield each, name


@pytest.mark.parametrize(("owner", "parameter"), sorted(set(bindings())))
def test_a_binding_of_the_page_exists(owner: str, parameter: str) -> None:
    found = place(owner)
    if parameter not in ("", "*"):
        assert parameter in inspect.signature(found).parameters


@pytest.mark.parametrize(
    "owner", ["train", "evaluate", "infer", "beam_search", "temperature_sample"]
)
def test_every_parameter_of_a_function_is_on_the_page(owner: str) -> None:
    listed = {parameter for name, parameter in bindings() if name == owner}
    assert set(inspect.signature(place(owner)).parameters) - listed == set()


def test_every_adafactor_parameter_is_listed() -> None:
    (row,) = re.findall(r"^\| `Adafactor\.\*` \| (.*) \|$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == set(inspect.signature(place("Adafactor")).parameters)


def test_bindings_without_a_parameter_are_those_that_the_checks_know() -> None:
    (section,) = re.findall(r"^### Bindings that have no parameter.*?(?=^## )", PAGE, re.M | re.S)
    listed = {}
    for names, values, why in re.findall(r"^\| (`.*?) \| (.*?) \| (.*) \|$", section, re.MULTILINE):
        for name in re.findall(r"`(.*?)`", names):
            assert name not in listed
            listed[name] = (values.replace("`", ""), why)
    assert listed == {
        name: (" or ".join(map(repr, rule.allowed)), rule.why) for name, rule in RULES.items()
    }


def test_imports_of_the_table_work() -> None:
    lines = re.findall(r"`(from t5x_ext[^`]*? import [^`]*)`", PAGE)
    assert len(lines) >= 24
    for line in lines:
        package, name = re.fullmatch(r"from (\S+) import (\w+)(?: as \w+)?", line).groups()
        assert hasattr(importlib.import_module(package), name) or importlib.import_module(
            f"{package}.{name}"
        )


def test_every_module_of_t5x_is_in_the_table() -> None:
    folder = REPO / "t5x_ext" / "t5x"
    for path in folder.rglob("*.py"):
        if path.name == "__init__.py" or path.stem in ("train", "eval", "infer"):
            continue
        parents = ".".join(("t5x", *path.relative_to(folder).parts[:-1]))
        assert f"| `from {parents} import {path.stem}` |" in PAGE


def test_flags_of_the_page_exist() -> None:
    (listed,) = re.findall(r"Flags are the same: (.*?)\n\n", PAGE, re.DOTALL)
    shown = help_of("t5x_ext.train")[0] + help_of("t5x_ext.infer")[0]
    for flag in re.findall(r"`(--\w+)", listed):
        assert flag in shown, flag


def test_what_is_not_here_is_not_here() -> None:
    (text,) = re.findall(r"^## What is not here\n(.*)", PAGE, re.DOTALL | re.MULTILINE)
    for name in ("assignment_map", "fallback_to_scratch", "state_transformation_fns"):
        assert f"`{name}`" in text
        assert name not in inspect.signature(place("RestoreCheckpointConfig")).parameters


def test_what_was_not_compared_names_tests_that_exist() -> None:
    section = PAGE.partition("was not run side by side")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!---|Not )(.+?) \| (.+) \|$", section, re.MULTILINE)
    assert len(rows) > 5
    for what, instead in rows:
        files = re.findall(r"`(tests/\S+\.py)`", instead)
        assert files or "benchmarks.md" in instead, what
        code = "".join((REPO / file).read_text() for file in files)
        for name in re.findall(r"`(test_\w+)`", instead):
            assert f"def {name}(" in code, name
