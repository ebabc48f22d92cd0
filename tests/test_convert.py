"""The convert and inspect commands: round trips byte by byte, and nothing written on failure."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from t5x_ext import convert
from t5x_ext import inspect_checkpoint as inspect
from t5x_ext.checkpoints import comparing, fingerprint, load_params, open_source, save_params
from t5x_ext.errors import ConfigError
from t5x_ext.models.families import config_from_json
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.models.parameters import init_params

REPO = Path(__file__).resolve().parents[1]
SHAPE = {
    "vocab_size": 40,
    "emb_dim": 12,
    "num_heads": 3,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "head_dim": 4,
    "mlp_dim": 20,
}
GATED = T5Config(**SHAPE, mlp_activations=("gelu", "linear"))
TIED = T5Config(**SHAPE, mlp_activations=("relu",), logits_via_embedding=True)


def make(path: Path, config: T5Config = GATED, seed: int = 0, **meta: object) -> Path:
    """A checkpoint of ours with random parameters."""
    params = init_params(Transformer(config).specs, jax.random.key(seed))
    save_params(str(path), params, {"t5_config": dataclasses.asdict(config), **meta})
    return path


def run(capsys, *argv: object) -> tuple[int, str, str]:
    status = convert.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("config", [GATED, TIED], ids=["gated", "tied"])
@pytest.mark.parametrize("scan", [[], ["--scan_layers"]], ids=["unscanned", "scanned"])
def test_a_round_trip_through_all_layouts_changes_no_byte(tmp_path, capsys, config, scan):
    safetensors = pytest.importorskip("safetensors.numpy")
    make(tmp_path / "ours", config, step=9)
    steps = [
        ("hf", "ours", "hf", []),
        ("t5x", "hf", "checkpoint_9", scan),
        ("t5x_ext", "checkpoint_9", "ours_again", []),
        ("hf", "ours_again", "hf_again", []),
    ]
    for to, source, destination, flags in steps:
        status, out, err = run(
            capsys, "--to", to, *flags, tmp_path / source, tmp_path / destination
        )
        assert status == 0, err
        assert "every tensor compared" in out
    assert fingerprint(str(tmp_path / "ours_again")) == fingerprint(str(tmp_path / "ours"))
    assert open_source(str(tmp_path / "ours_again")).config == config
    left, right = (
        safetensors.load_file(tmp_path / name / "model.safetensors") for name in ("hf", "hf_again")
    )
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype
        assert value.tobytes() == right[name].tobytes(), name


def test_the_summary_says_what_was_done(tmp_path, capsys):
    make(tmp_path / "ours", step=9)
    status, out, err = run(
        capsys,
        "--to",
        "t5x",
        "--from",
        "t5x_ext",
        "--dtype",
        "bfloat16",
        "--json",
        tmp_path / "ours",
        tmp_path / "checkpoint_9",
    )
    assert status == 0
    summary = json.loads(out)
    assert summary["source"] == {
        "path": str(tmp_path / "ours"),
        "kind": "t5x_ext",
        "step": 9,
        "sha256": fingerprint(str(tmp_path / "ours")),
    }
    assert (summary["tensors"], summary["parameters"]) == (29, 9540)
    assert (summary["bytes"], summary["verified"]) == (2 * 9540, True)
    assert config_from_json(summary["config"], "output") == GATED
    # Off a terminal, reading that takes no time says once that it has read all.
    assert err.count("writing ") == err.count("comparing ") == 1
    assert "writing 29/29  token_embedder/embedding [40, 12] float32" in err
    narrow = load_params(str(tmp_path / "checkpoint_9"))["token_embedder"]["embedding"]
    wide = load_params(str(tmp_path / "ours"))["token_embedder"]["embedding"]
    np.testing.assert_array_equal(narrow, wide.astype("bfloat16"))


def test_a_model_dir_means_its_newest_checkpoint(tmp_path, capsys):
    run_dir = tmp_path / "run"
    for step in (5, 10):
        make(run_dir / f"checkpoint_{step}", seed=step, step=step)
    shutil.rmtree(run_dir / "checkpoint_10" / "state" / "d")
    assert run(capsys, "--to", "hf", run_dir, tmp_path / "hf")[0] == 0
    source = open_source(str(tmp_path / "hf")).tensors["token_embedder/embedding"]
    wanted = load_params(str(run_dir / "checkpoint_5"))["token_embedder"]["embedding"]
    np.testing.assert_array_equal(source.whole(), wanted)


def remove_chunk(ours: Path) -> str:
    """A T5X checkpoint that opens, but has lost a file of its values."""
    damaged = ours.parent / "checkpoint_1"
    convert.convert(str(ours), str(damaged), "t5x", verify=False)
    (damaged / "target.encoder.layers_1.mlp.wo.kernel" / "0.0").unlink()
    return str(damaged)


def truncate_shard(ours: Path) -> str:
    damaged = ours.parent / "hf"
    convert.convert(str(ours), str(damaged), "hf", verify=False)
    content = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(content[:-8])
    return str(damaged)


def rename_directory(ours: Path) -> str:
    damaged = ours.parent / "checkpoint_1"
    convert.convert(str(ours), str(damaged), "t5x", verify=False)
    kernel = damaged / "target.encoder.layers_1.mlp.wo.kernel"
    kernel.rename(damaged / "target.encoder.layers_1.mlp.wo_2.kernel")
    return str(damaged)


def keep(ours: Path) -> str:
    return str(ours)


@pytest.mark.parametrize(
    ("damage", "flags", "message"),
    [
        (remove_chunk, [], "target.encoder.layers_1.mlp.wo.kernel"),
        (rename_directory, [], "target.encoder.layers_1.mlp.wo.kernel"),
        (truncate_shard, [], "model.safetensors"),
        (keep, ["--from", "hf"], "is of kind t5x_ext, not hf"),
        (keep, ["--scan_layers"], "--scan_layers: only T5X's layout has scanned layers"),
        (keep, ["--gin_file", "models/t5_1_1_small.gin"], "tensors do not match the model"),
        (keep, ["--gin_file", "models/llama_2_7b.gin"], "tensors do not match the model"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(tmp_path, capsys, damage, flags, message):
    source = damage(make(tmp_path / "ours"))
    before = sorted(path.name for path in tmp_path.iterdir())
    capsys.readouterr()
    status, out, err = run(capsys, "--to", "t5x_ext", *flags, source, tmp_path / "made")
    (line,) = [line for line in err.splitlines() if not line.startswith(("writing", "comparing"))]
    assert (status, out) == (1, "")
    assert line.startswith("error: ")
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_existing_destination_is_left_alone(tmp_path, capsys):
    make(tmp_path / "ours")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").write_text("mine")
    for to in convert.KINDS:
        status, _, err = run(capsys, "--to", to, tmp_path / "ours", tmp_path / "made")
        assert status == 1
        assert "already exists" in err
    assert (tmp_path / "made" / "file").read_text() == "mine"


def test_comparing_finds_one_wrong_bit(tmp_path):
    make(tmp_path / "ours")
    params = load_params(str(tmp_path / "ours"))
    params["encoder"]["relpos_bias"]["rel_embedding"].view(np.uint32)[2, 31] ^= 1
    save_params(str(tmp_path / "made"), params, {})
    source = open_source(str(tmp_path / "ours"))
    with pytest.raises(ValueError, match="encoder/relpos_bias/rel_embedding differs from"):
        comparing.compare(source, epath.Path(tmp_path / "made"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "Input/output error")])
def test_what_ends_the_comparison_leaves_nothing(tmp_path, monkeypatch, capsys, error):
    """What has its name has been compared."""
    make(tmp_path / "ours")

    def fail(left: np.ndarray, right: np.ndarray) -> bool:
        assert not (tmp_path / "made").exists()
        raise error

    monkeypatch.setattr(comparing, "_same_bits", fail)
    for to in convert.KINDS:
        status, _, err = run(capsys, "--to", to, tmp_path / "ours", tmp_path / "made")
        assert status == (130 if error is KeyboardInterrupt else 1)
        assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]


def test_a_directory_that_looks_like_a_leftover_is_the_users(tmp_path, capsys):
    make(tmp_path / "ours")
    (tmp_path / "made.unfinished").mkdir()
    (tmp_path / "made.unfinished" / "thesis.tex").write_text("mine")
    assert run(capsys, "--to", "hf", tmp_path / "ours", tmp_path / "made")[0] == 0
    assert (tmp_path / "made.unfinished" / "thesis.tex").read_text() == "mine"


def test_several_converts_to_one_path_do_not_disturb_each_other(tmp_path):
    """The first that is done has the path; the others end in one line and leave nothing."""
    make(tmp_path / "ours")
    source, made = str(tmp_path / "ours"), str(tmp_path / "made")
    barrier = threading.Barrier(3)

    def attempt(_: int) -> str:
        barrier.wait()
        try:
            convert.convert(source, made, "t5x_ext")
        except ConfigError as error:
            return str(error)
        return "done"

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(attempt, range(3)))
    assert outcomes.count("done") == 1
    assert all("made: already exists" in line for line in outcomes if line != "done")
    comparing.compare(open_source(source), epath.Path(made))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "ours"]


def test_a_link_to_nothing_is_no_destination(tmp_path, capsys):
    make(tmp_path / "ours")
    (tmp_path / "made").symlink_to(tmp_path / "nowhere")
    status, _, err = run(capsys, "--to", "hf", tmp_path / "ours", tmp_path / "made")
    assert status == 1
    assert "made: a link to nothing" in err
    assert (tmp_path / "made").is_symlink()


PIPES = ["config.json", "model.safetensors", "meta", "checkpoint", "manifest.json"]
PIPES += ["state/_METADATA", "meta/metadata", "fingerprint/metadata", "state/d/more"]


@pytest.mark.parametrize("name", PIPES)
def test_a_pipe_among_the_files_is_refused_rather_than_waited_for(tmp_path, capsys, name):
    make(tmp_path / "ours")
    pipe = tmp_path / "ours" / name
    shutil.rmtree(pipe, ignore_errors=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    status, _, err = run(capsys, "--to", "hf", tmp_path / "ours", tmp_path / "made")
    assert status == 1
    assert f"{name}: neither a file nor a directory" in err


def test_a_link_that_leads_back_is_refused_rather_than_followed(tmp_path, capsys):
    make(tmp_path / "ours")
    (tmp_path / "ours" / "state" / "again").symlink_to(tmp_path / "ours")
    status, _, err = run(capsys, "--to", "hf", tmp_path / "ours", tmp_path / "made")
    assert (status, "state/again: a link to a directory" in err) == (1, True)


@pytest.mark.parametrize("name", ["/dev/zero", "../../other", "state/../../other", ""])
@pytest.mark.parametrize("part", ["bytes", "sha256"])
def test_a_manifest_lists_files_of_its_own_checkpoint_only(tmp_path, capsys, name, part):
    make(tmp_path / "ours")
    (tmp_path.parent / "other").write_text("not to be looked at")
    manifest = {"bytes": {}, "sha256": {}, part: {name: 0}}
    (tmp_path / "ours" / "manifest.json").write_text(json.dumps(manifest))
    status, _, err = run(capsys, "--to", "hf", tmp_path / "ours", tmp_path / "made")
    assert status == 1
    assert f"manifest.json: lists {name!r}, which is not in the checkpoint" in err


def test_a_gin_file_gives_the_config_that_a_checkpoint_lacks(tmp_path, capsys):
    params = init_params(Transformer(GATED).specs, jax.random.key(0))
    save_params(str(tmp_path / "bare"), params, {})
    status, _, err = run(capsys, "--to", "hf", tmp_path / "bare", tmp_path / "hf")
    assert status == 1
    assert "does not state the model's config" in err
    gin_file = tmp_path / "model.gin"
    values = {**dataclasses.asdict(GATED), "mlp_activations": ("silu", "linear")}
    bindings = "".join(f"  {name} = {value!r}\n" for name, value in values.items())
    head = "from __gin__ import dynamic_registration\nfrom t5x_ext.models import network\n"
    gin_file.write_text(f"{head}network.T5Config:\n{bindings}")
    flags = ["--to", "t5x_ext", "--gin_file", gin_file]
    assert run(capsys, *flags, tmp_path / "bare", tmp_path / "made")[0] == 0
    made = open_source(str(tmp_path / "made"))
    assert made.config == dataclasses.replace(GATED, mlp_activations=("silu", "linear"))
    assert made.digest == fingerprint(str(tmp_path / "bare"))


def test_a_gin_file_does_not_replace_what_a_checkpoint_states(tmp_path, capsys):
    make(tmp_path / "ours")
    values = {**dataclasses.asdict(GATED), "relative_attention_max_distance": 64}
    bindings = "".join(f"  {name} = {value!r}\n" for name, value in values.items())
    head = "from __gin__ import dynamic_registration\nfrom t5x_ext.models import network\n"
    (tmp_path / "model.gin").write_text(f"{head}network.T5Config:\n{bindings}")
    flags = ["--to", "hf", "--gin_file", tmp_path / "model.gin"]
    status, _, err = run(capsys, *flags, tmp_path / "ours", tmp_path / "made")
    said = "error: T5Config.relative_attention_max_distance: 64; allowed: 128, as "
    assert status == 1 and err.splitlines()[-1].startswith(said)
    assert not (tmp_path / "made").exists()


def test_inspect_says_what_a_checkpoint_holds(tmp_path, capsys):
    make(tmp_path / "run" / "checkpoint_3", step=3)
    assert inspect.main([str(tmp_path / "run"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["kind"], summary["step"], summary["parameters"]) == ("t5x_ext", 3, 9540)
    assert config_from_json(summary["config"], "output") == GATED
    wo = summary["tensors"]["decoder/layers/mlp/wo/kernel"]
    assert wo == {"shape": [3, 20, 12], "dtype": "float32"}
    assert inspect.main([str(tmp_path / "run")]) == 0
    assert "29 tensors, 9,540 parameters, 38,160 bytes" in capsys.readouterr().out
    assert inspect.main([str(tmp_path)]) == 1
    assert "holds no checkpoint; allowed: " in capsys.readouterr().err


def test_no_device_and_no_heavy_package_is_touched(tmp_path):
    """A checkpoint of eight devices is converted and inspected on a host without any."""
    make(tmp_path / "ours")
    code = (
        "import sys, jax\n"
        "from t5x_ext import convert, inspect_checkpoint\n"
        f"convert.convert({str(tmp_path / 'ours')!r}, {str(tmp_path / 'made')!r}, 't5x_ext')\n"
        f"inspect_checkpoint.inspect({str(tmp_path / 'made')!r})\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a device was initialised'\n"
        "print([m for m in ('tensorflow', 'seqio', 'torch', 'orbax.checkpoint', 'gin')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
