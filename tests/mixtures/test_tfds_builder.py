"""The TFRecord shards: `tfds build`'s code runs, and SeqIO gets the same examples from both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

import mixtures
from mixtures.errors import DataError
from mixtures.prepared import VERSION, PreparedRelease
from mixtures.preprocessors import render_prompt
from mixtures.release import Release
from mixtures.vocabularies import ByteVocabulary

LENGTHS = {"inputs": 600, "targets": 64}
# One of each kind: ordinary, all references, fewer than 120 instances, and a name SeqIO refuses.
TEST_TASKS = (
    "task1344_glue_entailment_classification",
    "task670_ambigqa_question_generation",
    "task893_gap_fill_the_blank_coreference_resolution",
    "task602_wikitext-103_answer_generation",
)
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def release_dir(superni_dir, tmp_path_factory) -> Path:
    """Four test-track and two train-track tasks, and one that is listed without a file."""
    root = tmp_path_factory.mktemp("release")
    (root / "tasks").mkdir()
    (root / "splits" / "default").mkdir(parents=True)
    real = Release(superni_dir)
    listed = {"test": (*TEST_TASKS, "task9_not_there"), "train": real.names("train")[:2]}
    for track, names in listed.items():
        (root / "splits" / "default" / f"{track}_tasks.txt").write_text("\n".join(names) + "\n")
        for name in set(names) & set(real.names(track)):
            shutil.copy(superni_dir / "tasks" / f"{name}.json", root / "tasks")
    return root


@pytest.fixture(scope="module")
def shards_dir(release_dir, tmp_path_factory) -> Path:
    """The release as shards; SUPERNI_DIR says where the task files are."""
    root = tmp_path_factory.mktemp("shards")
    command = [sys.executable, "-m", "mixtures.super_natural_instructions", f"--data_dir={root}"]
    environment = os.environ | {"SUPERNI_DIR": str(release_dir)}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return root


@pytest.fixture
def configure():
    """`mixtures.configure` with a vocabulary that needs no file; the defaults come back after."""
    yield lambda path, **settings: mixtures.configure(path, ByteVocabulary(), **settings)
    mixtures.configure()


def read(name: str, split: str) -> list[dict[str, np.ndarray]]:
    dataset = seqio.get_mixture_or_task(name).get_dataset(LENGTHS, split, shuffle=False)
    return list(dataset.as_numpy_iterator())


def assert_same(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_task_files_and_shards_give_identical_examples(configure, release_dir, shards_dir):
    wanted = [
        (mixtures.task_name("tk.def_pos2_neg2", "held_in", "n50"), "train", 100),
        (mixtures.task_name("tk.def_pos2_neg2", "held_in", "p1"), "validation", 20),
        (mixtures.task_name("tk.def_pos2_neg2", TEST_TASKS[1], "n50"), "train", 50),
        (mixtures.task_name("ql.io", TEST_TASKS[3], "all"), "test", 84),
        (mixtures.task_name("ql.io", "pretune", "n100"), "train", 200),
    ]
    configure(release_dir)
    from_files = [read(name, split) for name, split, _ in wanted]
    configure(shards_dir)
    for (name, split, count), examples in zip(wanted, from_files, strict=True):
        assert len(examples) == count
        assert_same(read(name, split), examples)


def test_shards_can_be_divided_by_another_policy(configure, release_dir, shards_dir):
    name = mixtures.task_name("ql.io", TEST_TASKS[2], "all")
    counts = {}
    for policy in ("disjoint", "paper"):
        configure(release_dir, split_policy=policy)
        examples = read(name, "train")
        configure(shards_dir, split_policy=policy)
        assert_same(read(name, "train"), examples)
        counts[policy] = len(examples)
    assert counts == {"disjoint": 0, "paper": 100}


def test_shards_tell_what_the_release_tells(release_dir, shards_dir):
    release, shards = Release(release_dir), PreparedRelease(str(shards_dir))
    for track in ("train", "test"):
        assert shards.names(track) == release.names(track)
        assert shards.missing(track) == release.missing(track)
        assert shards.categories(track) == release.categories(track)
        assert shards.fingerprint(release.names(track)) == release.fingerprint(release.names(track))
        for name in release.names(track):
            assert shards.task(name).instances == release.task(name).instances
            assert shards.task(name).negative_examples == release.task(name).negative_examples


def test_shards_are_a_plain_tfds_data_set_in_release_order(release_dir, shards_dir):
    source = seqio.TfdsDataSource(
        f"super_natural_instructions/test:{VERSION}", tfds_data_dir=str(shards_dir)
    )
    rows = list(source.get_dataset("train", shuffle=False).as_numpy_iterator())
    release = Release(release_dir)
    expected = [i.id for name in TEST_TASKS for i in release.task(name).instances[110:]]
    assert [row["id"].decode() for row in rows] == expected
    builder = tfds.builder_from_directory(
        shards_dir / "super_natural_instructions" / "test" / VERSION
    )
    assert builder.info.disable_shuffling
    assert builder.info.splits["test"].num_examples == 384
    assert {row["position"] for row in rows} == set(range(110, 310))


def test_seqio_renders_the_tfds_data_set_without_our_reader(configure, shards_dir):
    """A user's own task over `TfdsDataSource` equals the name resolved on demand."""
    configure(shards_dir)
    ours = seqio.get_mixture_or_task("superni.ql.def_pos2.held_in.all")
    own = seqio.Task(
        "own_tfds_task",
        seqio.TfdsDataSource(
            f"super_natural_instructions/test:{VERSION}", tfds_data_dir=str(shards_dir)
        ),
        ours.output_features,
        [
            lambda ds, output_features, sequence_length: render_prompt(
                ds, output_features, sequence_length, prompt="ql.def_pos2"
            )
        ],
    )
    for split in ("validation", "test"):
        assert_same(
            list(own.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator()),
            list(ours.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator()),
        )


def test_wrong_shards_are_refused_in_one_line(configure, shards_dir, tmp_path):
    configure(shards_dir)
    with pytest.raises(DataError, match="scope 'task1_nowhere' is unknown"):
        seqio.get_mixture_or_task("superni.ql.io.task1_nowhere.all")
    with pytest.raises(DataError, match="test/1.0.0: 1 of 5 tasks have no file .*; allowed"):
        PreparedRelease(str(shards_dir), missing="refuse").names("train")
    with pytest.raises(DataError, match="task 'task1_nowhere' is not in the shards"):
        PreparedRelease(str(shards_dir)).task("task1_nowhere")
    (tmp_path / "super_natural_instructions").mkdir()
    with pytest.raises(DataError, match="no shards in .*tfds build"):
        PreparedRelease(str(tmp_path)).names("test")
