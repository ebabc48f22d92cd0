"""Gin configurations: what is refused, with which message, and what is written down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import gin
import pytest

from t5x_ext import gin_utils
from t5x_ext.errors import ConfigError

COMMAND_MODULE = '''
"""A command module as t5x_ext's own are."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from t5x_ext import errors, gin_utils


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    name: str
    lengths: Mapping[str, int]
    split: str
    batch_size: int = 8
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Trainer:
    num_microbatches: int | None = None
    learning_rate: float = 1e-3


class Model:
    def __init__(self, activations: Sequence[str] = ("gelu",), dtype: Any = "float32"):
        self.activations, self.dtype = tuple(activations), dtype

    def predict(self, batch, num_decodes: int = 1):
        return num_decodes


def train(
    *,
    model: Model,
    model_dir: str,
    train_dataset_cfg: DatasetConfig,
    eval_dataset_cfg: DatasetConfig | None,
    trainer_cls: Callable[..., Trainer],
    total_steps: int,
    dropout: float = 0.1,
    mode: Literal["fast", "exact"] = "exact",
    shard: str = "0/1",
) -> dict[str, Any]:
    """Trains nothing.

    Not part of the summary.
    """
    values = dict(
        model=(model.activations, model.predict(None)),
        model_dir=model_dir,
        train=train_dataset_cfg,
        eval=eval_dataset_cfg,
        trainer=trainer_cls(),
        total_steps=total_steps,
        dropout=dropout,
        mode=mode,
        shard=shard,
    )
    if mode == "fast":
        raise errors.ConfigError("mode: 'fast' is not built; allowed: 'exact'")
    print(values)
    return values


def main(argv: Sequence[str] | None = None) -> int:
    return gin_utils.run(
        train, argv, gin_file=RUN_FILE, add_flags=lambda parser: parser.add_argument("--shard")
    )
'''

MODEL_FILE = """
from __gin__ import dynamic_registration
import synthetic_train as models

DROPOUT_RATE = %gin.REQUIRED
MODEL = @models.Model()
models.Model:
  activations = ('gelu', 'linear')
  dtype = 'bfloat16'
"""

RUN_FILE = """
from __gin__ import dynamic_registration
import __main__ as train_script
import synthetic_train as utils

MODEL_DIR = %gin.REQUIRED  # where checkpoints go
TRAIN_STEPS = %gin.REQUIRED
MODULE = %gin.REQUIRED
LENGTHS = {'inputs': 64, 'targets': 16}
DROPOUT_RATE = 0.1
MODULE = None

train_script.train:
  model = %MODEL  # from a separate file
  model_dir = %MODEL_DIR
  train_dataset_cfg = @train/utils.DatasetConfig()
  eval_dataset_cfg = @evaluate/utils.DatasetConfig()
  trainer_cls = @utils.Trainer
  total_steps = %TRAIN_STEPS
  dropout = %DROPOUT_RATE

utils.DatasetConfig:
  name = 'superni'
  lengths = %LENGTHS
train/utils.DatasetConfig:
  split = 'train'
  seed = %MODULE
evaluate/utils.DatasetConfig.split = 'validation'
utils.Trainer.num_microbatches = 2
"""

SET = ["MODEL_DIR = 'runs/model'", "TRAIN_STEPS = 7"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an importable command module and its gin files."""
    root = tmp_path_factory.mktemp("project")
    (root / "gin").mkdir()
    (root / "gin" / "run.gin").write_text(RUN_FILE)
    (root / "gin" / "model.gin").write_text(MODEL_FILE)
    source = COMMAND_MODULE.replace("RUN_FILE", repr(str(root / "gin" / "run.gin")))
    ending = '\n\nif __name__ == "__main__":\n    sys.exit(main())\n'
    (root / "synthetic_train.py").write_text(source + ending)
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))


@pytest.fixture
def parse(project: Path):
    """Parses the model and run files, then files of the given texts, then bindings."""
    import synthetic_train

    def parse_texts(*texts: str, bindings: list[str] = SET, base: bool = True) -> None:
        names = ["gin/model.gin", "gin/run.gin"] if base else []
        for number, text in enumerate(texts):
            path = project / f"extra{number}.gin"
            path.write_text(textwrap.dedent(text))
            names.append(path.name)
        gin_utils.parse(names, bindings, [str(project)], command=synthetic_train.train)

    yield parse_texts
    gin.clear_config()


def call() -> dict:
    import synthetic_train

    return gin.get_configurable(synthetic_train.train)()


def test_files_macros_scopes_and_bindings_reach_the_command(parse):
    parse(bindings=[*SET, "train/DatasetConfig.batch_size = 32", "train.dropout = 0"])
    values = call()
    assert values["model"] == (("gelu", "linear"), 1)
    assert values["total_steps"] == 7 and values["dropout"] == 0
    assert (values["train"].batch_size, values["train"].split) == (32, "train")
    assert (values["eval"].batch_size, values["eval"].split) == (8, "validation")
    assert values["eval"].lengths == {"inputs": 64, "targets": 16}
    assert values["trainer"].num_microbatches == 2


def test_parsing_again_starts_from_nothing(parse):
    parse(bindings=[*SET, "DROPOUT_RATE = 0.5"])
    parse()
    assert call()["dropout"] == 0.1


IMPORTS = "from __gin__ import dynamic_registration\nimport synthetic_train as utils\n"

# (extra file, command line, parts of the message)
WRONG = {
    "macro on the command line": (
        "",
        ["TRIAN_STEPS = 9"],
        ["--gin.TRIAN_STEPS: unknown macro 'TRIAN_STEPS'", "did you mean 'TRAIN_STEPS'?"],
    ),
    "macro in a file": (
        "\n\nBACH_SIZE = 9\nDROPUT_RATE = 0.2\nutils.Trainer.num_microbatches = %BACH_SIZE",
        [],
        ["extra0.gin:4: unknown macro 'DROPUT_RATE'", "did you mean 'DROPOUT_RATE'?"],
    ),
    "undefined macro": (
        "utils.Trainer:\n  num_microbatches = %TRAIN_STEP",
        [],
        ["extra0.gin:2: macro 'TRAIN_STEP' is used but never set", "did you mean 'TRAIN_STEPS'?"],
    ),
    "circular macro": ("A = %B\nB = %A\nTrainer.learning_rate = %A", [], ["extra0.gin:1", "circ"]),
    "circular call": (
        IMPORTS + "utils.train.model = @utils.train()",
        [],
        ["extra0.gin:3: utils.train is among its own arguments"],
    ),
    "configurable": (
        IMPORTS + "utils.DatsetConfig.split = 'x'",
        [],
        ["extra0.gin:3: unknown configurable 'utils.DatsetConfig'", "'utils.DatasetConfig'?"],
    ),
    "configurable without its module": (
        IMPORTS + "DatasetConfig:\n  split = 'x'",
        [],
        ["extra0.gin:3: unknown configurable 'DatasetConfig'", "'utils.DatasetConfig'?"],
    ),
    "configurable, no dynamic registration": (
        "",
        ["Trainr.num_microbatches = 1"],
        ["--gin.Trainr.num_microbatches: unknown configurable 'Trainr'", "mean 'Trainer'?"],
    ),
    "reference": (
        IMPORTS + "LENGTHS = {\n  'inputs': @utils.lengthy()}",
        [],
        ["extra0.gin:3: unknown configurable 'utils.lengthy'"],
    ),
    "parameter": (
        IMPORTS + "utils.DatasetConfig:\n  split = 'x'\n  bach_size = 3",
        [],
        ["extra0.gin:5: utils.DatasetConfig has no parameter 'bach_size'", "mean 'batch_size'?"],
    ),
    "scope": (
        IMPORTS + "evalute/utils.DatasetConfig.batch_size = 3",
        [],
        ["extra0.gin:3: unknown scope 'evalute'", "did you mean 'evaluate'?"],
    ),
    "type of a macro": (
        "",
        ["TRAIN_STEPS = 'nine'"],
        [
            "--gin.TRAIN_STEPS: TRAIN_STEPS = 'nine'",
            "train_script.train.total_steps (",
            "run.gin:19) takes int",
        ],
    ),
    "type of a parameter": (
        "Trainer.learning_rate = '1e-3'",
        [],
        ["extra0.gin:1: Trainer.learning_rate = '1e-3', but takes float"],
    ),
    "type inside a mapping": (
        "LENGTHS = {'inputs': '64'}",
        [],
        ["extra0.gin:1: LENGTHS = {'inputs': '64'}", "takes Mapping[str, int]"],
    ),
    "one of a sequence": (
        "Model.activations = 'relu'",
        [],
        ["Model.activations = 'relu', but takes Sequence[str]; one alone is written ('relu',)"],
    ),
    "literal": ("train.mode = 'slow'", [], ["extra0.gin:1", "takes Literal['fast', 'exact']"]),
    "missing parentheses": (
        "train.eval_dataset_cfg = @DatasetConfig",
        [],
        ["extra0.gin:1: train.eval_dataset_cfg = @DatasetConfig", "DatasetConfig | None"],
    ),
    "wrong class": (
        "train.train_dataset_cfg = @Trainer()",
        [],
        ["extra0.gin:1: train.train_dataset_cfg = @Trainer()", "takes", "DatasetConfig"],
    ),
    "missing argument": (
        "train.eval_dataset_cfg = @other/DatasetConfig()",
        [],
        ["extra0.gin:1: other/DatasetConfig has no value for 'split'"],
    ),
    "required parameter": (
        "train.mode = %gin.REQUIRED",
        [],
        ["extra0.gin:1: train.mode is required and not set"],
    ),
    "upstream import": (
        "from __gin__ import dynamic_registration\nfrom t5x import utils",
        [],
        ["extra0.gin:2: cannot import 't5x.utils'", "write t5x_ext.t5x for t5x"],
    ),
    "import": (
        "from __gin__ import dynamic_registration\nfrom t5x_ext import gin_util",
        [],
        ["extra0.gin:2: cannot import 't5x_ext.gin_util'", "did you mean 'gin_utils'?"],
    ),
    "include": ("\ninclude 'gin/modle.gin'", [], ["extra0.gin:2", "did you mean 'gin/model.gin'?"]),
    "include of itself": ("include 'extra0.gin'", [], ["extra0.gin:1", "includes itself"]),
    "syntax": ("\nTrainer.learning_rate = = 1", [], ["extra0.gin:2: Unable to parse value"]),
    "open bracket": ("\nLENGTHS = {'inputs': 3,\n", [], ["extra0.gin:"]),
    "unquoted string": (
        "",
        ["MODEL_DIR = runs/x"],
        ["--gin.MODEL_DIR", "'runs/x' is not a gin value", "--gin.MODEL_DIR='\"runs/x\"'"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_mistake_is_one_line_with_place_and_nearest_name(parse, case):
    text, bindings, parts = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        parse(text, bindings=[*SET, *bindings])
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


def test_an_idle_macro_of_a_file_is_one_warning_and_on_the_command_line_an_error(parse, caplog):
    text = "NUM_EMBEDDINGS = 8\n\nTOPOLOGY = '2x2'\nTOPOLOGY = '4x4'\nTrainer.learning_rate = 2.0"
    parse(text)
    (twice, idle) = [record.getMessage() for record in caplog.records]
    assert "extra0.gin:4: TOPOLOGY is set twice in this file, first at" in twice
    assert "set, but nothing uses it: NUM_EMBEDDINGS (" in idle
    assert "extra0.gin:1), TOPOLOGY (" in idle and idle.endswith("extra0.gin:4)")
    assert call()["trainer"].learning_rate == 2.0
    with pytest.raises(ConfigError, match="--gin.NUM_EMBEDDINGS: unknown macro"):
        parse(bindings=[*SET, "NUM_EMBEDDINGS = 8"])


def test_of_two_values_in_one_file_the_later_counts(parse, caplog):
    parse("Trainer.learning_rate = 1.0\n\nTrainer:\n  learning_rate = 2.0")
    assert call()["trainer"].learning_rate == 2.0
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.search(
        r"extra0\.gin:4: Trainer\.learning_rate is set twice .*extra0\.gin:1; the later", message
    )
    caplog.clear()
    parse("Trainer.learning_rate = 1.0\nTrainer.learning_rate = 1.0")
    assert not caplog.records


@pytest.mark.parametrize(
    "name", ["global_norm_clip_threshold", "gc_period", "learning_rat_decay_schedule"]
)
def test_a_parameter_that_is_like_none_gets_the_list_and_no_guess(parse, name):
    with pytest.raises(ConfigError, match="has no parameter") as caught:
        parse(IMPORTS + f"utils.Trainer.{name} = 1.0")
    assert "did you mean" not in str(caught.value)
    assert "allowed: learning_rate, num_microbatches" in str(caught.value)


def test_a_macro_of_other_files_of_the_package_is_told_as_that():
    with pytest.raises(ConfigError) as caught:
        gin_utils.parse(
            ["studies/superni_tiny.gin"], ["MODEL_DIR = 'run'", "ADAPTER = 'runs/mine'"]
        )
    assert str(caught.value).startswith(
        "--gin.ADAPTER: unknown macro 'ADAPTER': no gin file of this run sets or uses it "
        "(runs/eval.gin, runs/finetune.gin, runs/infer.gin, runs/plan.gin, ... would); allowed: "
    )


def test_unset_required_macros_are_all_named(parse):
    with pytest.raises(ConfigError, match=r"run\.gin:6: MODEL_DIR is required.*TRAIN_STEPS \(.*:7"):
        parse(bindings=[])


def test_required_after_a_value_says_which_file_to_give_later(parse):
    with pytest.raises(ConfigError, match=r"extra0\.gin:1: MODEL is .*gin/model\.gin:6: give that"):
        parse("MODEL = %gin.REQUIRED")


def test_a_file_that_requires_what_it_includes_a_value_for_asks_for_it():
    with pytest.raises(ConfigError, match="DATA_DIR is required and not set: give --gin.DATA_DIR="):
        gin_utils.parse(["studies/writing_smollm2.gin"], ["MODEL_DIR = 'runs/study'"])


def test_missing_model_file_is_named(parse):
    with pytest.raises(ConfigError, match=r"extra0\.gin:14: macro 'MODEL' is used but never set"):
        parse(RUN_FILE, base=False)


def test_missing_file_names_the_searched_directories(project):
    with pytest.raises(ConfigError, match=f"--gin_file: no file 'gin/rum.gin' in {project}.*run"):
        gin_utils.parse(["gin/rum.gin"], [], [str(project)])


def test_a_file_of_t5x_is_told_its_name_here(project):
    (project / "own.gin").write_text("include 't5x/configs/runs/finetune.gin'")
    for name, advice in (
        ("own.gin", "own.gin:1: no file .* write gin_configs/runs/ for t5x/configs/runs/"),
        ("t5x/examples/t5/t5_1_1/small.gin", "write gin_configs/models/t5_1_1_base.gin for"),
    ):
        with pytest.raises(ConfigError, match=f"{advice}.*, see docs/from_t5x.md"):
            gin_utils.parse([name], [], [str(project)])


def test_int_for_float_none_for_optional_and_list_for_tuple_are_accepted(parse):
    parse(
        IMPORTS + "utils.Trainer:\n  learning_rate = 1\n  num_microbatches = None\n"
        "utils.Model.activations = ['relu']\nutils.train.eval_dataset_cfg = None"
    )
    assert call()["eval"] is None


def test_a_scope_that_nothing_opens_passes_unless_it_looks_misspelt(parse):
    parse("infer_eval/DatasetConfig.batch_size = 3\ntrain_eval/DatasetConfig.batch_size = 4")
    with pytest.raises(ConfigError, match="unknown scope 'trian'; did you mean 'train'"):
        parse("trian/DatasetConfig.batch_size = 3")


def test_a_file_without_dynamic_registration_and_a_method_may_be_configured(parse):
    parse("Model.activations = ('relu',)", IMPORTS + "utils.Model.predict.num_decodes = 4")
    assert call()["model"] == (("relu",), 4)


def test_gin_errors_while_running_are_one_line(parse, capsys):
    from t5x_ext.terminal import exit_status

    parse(bindings=[*SET, "train.mode = 'fast'"])
    assert exit_status(call) == 1
    assert capsys.readouterr().err == "error: mode: 'fast' is not built; allowed: 'exact'\n"


def test_written_config_reruns_to_the_same_values(parse, tmp_path):
    long = "a long string " * 20
    extra = (
        IMPORTS + "import json\nutils.Model.predict.num_decodes = 4\n"
        f"utils.DatasetConfig.name = '{long}'\nLENGTHS = {{'b': 2}}"
    )
    parse(extra, bindings=[*SET, "train/DatasetConfig.batch_size = 32", "DROPOUT_RATE = 1e-05"])
    values = call()
    gin_utils.summarize_gin_config(str(tmp_path / "new" / "dir"), None, 0)
    written = tmp_path / "new" / "dir" / "config.gin"
    assert [path.name for path in written.parent.iterdir()] == ["config.gin"]
    text = written.read_text()
    assert "import synthetic_train as " in text and "__main__" not in text
    assert "import json" in text and "model_dir = %MODEL_DIR" in text

    import synthetic_train

    gin_utils.parse([str(written)], command=synthetic_train.train)
    again = call()
    assert gin_utils.operative_config() == text
    assert again == values and values["model"] == (("gelu", "linear"), 4)


def test_config_goes_to_the_summary_writer(parse, tmp_path):
    class Writer:
        def write_texts(self, step, texts):
            self.step, self.texts = step, texts

        def flush(self):
            self.flushed = True

    parse()
    writer = Writer()
    gin_utils.summarize_gin_config(str(tmp_path), writer, 3)
    assert writer.step == 3 and writer.flushed and "TRAIN_STEPS = 7" in writer.texts["config"]


def start(project: Path, *arguments: str, program: tuple[str, ...] = ("-m", "synthetic_train")):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(project), *sys.path]))
    return subprocess.run(
        [sys.executable, *program, *arguments],
        env=environment,
        cwd=project.parent,
        capture_output=True,
        text=True,
    )


GIN = ["--gin_file=gin/model.gin", "--gin_file=gin/run.gin"]


@pytest.mark.parametrize(
    "program",
    [("-m", "synthetic_train"), ("-c", "import synthetic_train as s; s.sys.exit(s.main())")],
)
def test_module_and_console_script_run_the_configured_function(project, program):
    arguments = [
        *GIN,
        f"--gin_search_paths={project},/nowhere",
        "--gin.MODEL_DIR='runs/model'",
        "--gin_bindings=TRAIN_STEPS=7",
        "--gin.train.dropout=0.25",
        "--shard=1/2",
    ]
    done = start(project, *arguments, program=program)
    assert done.returncode == 0, done.stderr
    assert "'total_steps': 7, 'dropout': 0.25, 'mode': 'exact', 'shard': '1/2'" in done.stdout


def test_a_wrong_command_line_fails_before_anything_slow_is_imported(project):
    arguments = [*GIN, f"--gin_search_paths={project}", "--gin.TRIAN_STEPS=9"]
    code = "import sys, synthetic_train as s; s.main(); print(*sys.modules)"
    done = start(project, *arguments, program=("-c", code))
    assert not {"jax", "tensorflow", "numpy"} & set(done.stdout.split())
    done = start(project, *arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: --gin.TRIAN_STEPS: unknown macro")
    assert len(done.stderr.splitlines()) == 1


def test_usage_errors_exit_with_2(project):
    for arguments in (["--no_such_flag"], [], ["--gin.MODEL_DIR"]):
        done = start(project, *arguments)
        assert done.returncode == 2, arguments
        assert "usage: t5x_ext synthetic_train --gin_file=FILE" in done.stderr


def test_help_lists_what_must_be_set(project):
    done = start(project, "--help")
    assert done.returncode == 0
    assert "Trains nothing." in done.stdout and "--shard" in done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "MODEL_DIR where checkpoints go" in lines and "TRAIN_STEPS" in lines
    assert "MODEL by one more gin file, or on the command line" in lines
    assert not any(line.startswith("MODULE") for line in lines)
    assert lines[-2:] == ["--gin.MODEL_DIR=... \\", "--gin.TRAIN_STEPS=..."]
