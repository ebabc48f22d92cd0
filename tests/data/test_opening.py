"""Training data on disk gives what data in memory gives; stochastic tasks draw in every epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf

import mixtures
from t5x_ext.configs import DatasetConfig
from t5x_ext.data import datasets, seqio_examples, stores
from t5x_ext.data.batching import TrainBatches, eval_batches
from t5x_ext.data.cuts import cuts_by_task
from t5x_ext.data.features import EncoderDecoderFeatures
from t5x_ext.data.opening import open_members
from t5x_ext.data.tables import JoinedTable, MemoryTable

LENGTHS = {"inputs": 24, "targets": 12}
TOKENIZE = (seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim)
ON_DISK = 0  # bytes of memory allowed


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("T5X_EXT_CACHE", str(tmp_path))
    return tmp_path / "examples"


@pytest.fixture
def add_task() -> Iterator:
    """Registers a task of numbered texts, anew if it is there."""
    names = set()

    def add(name: str, count: int = 400, preprocessors=(), suffix: str = "") -> str:
        def read(split: str, shuffle_files: bool) -> tf.data.Dataset:
            texts = [f"{'ab' * (i % 9)} {i}{suffix}" for i in range(count)]
            targets = [f"{i % 13}" * (1 + i % 5) for i in range(count)]
            return tf.data.Dataset.from_tensor_slices({"inputs": texts, "targets": targets})

        if name in names:
            seqio.TaskRegistry.remove(name)
        names.add(name)
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(read, splits=("train", "validation")),
            preprocessors=[*TOKENIZE, *preprocessors],
            output_features={
                key: seqio.Feature(seqio.ByteVocabulary()) for key in ("inputs", "targets")
            },
        )
        return name

    yield add
    for name in names:
        seqio.TaskRegistry.remove(name)


@seqio.map_over_dataset(num_seeds=1)
def corrupt(row, seed):
    """Span corruption in small: masks tokens of the input and asks for them."""
    is_masked = tf.random.stateless_uniform(tf.shape(row["inputs"]), seed) < 0.3
    masked = tf.where(is_masked, 300, row["inputs"])
    return row | {"inputs": masked, "targets": tf.boolean_mask(row["inputs"], is_masked)}


@seqio.map_over_dataset
def add_a_die(row):
    rolled = tf.random.uniform([1], 3, 9, tf.int32)
    return row | {"inputs": tf.concat([rolled, row["inputs"]], 0)}


def open_batches(name: str, pack: bool = True, seed: int = 0, limit: int = 1 << 30) -> TrainBatches:
    members = open_members(name, "train", LENGTHS, memory_limit_bytes=limit, draw_seed=seed)
    return TrainBatches(members, 64, LENGTHS, pack, seed)


def take(batches: TrainBatches, count: int) -> list:
    with contextlib.closing(batches):
        return list(itertools.islice(batches, count))


def tokens_of(batches: TrainBatches, epoch: int) -> dict[str, list[int]]:
    """Example -> its encoder tokens in an epoch of unpacked batches."""
    found = {}
    for step in range(batches.steps_per_epoch(epoch)):
        batch, info = batches.make(epoch, step)
        for name, row in zip(info.ids, batch["encoder_input_tokens"], strict=False):
            found[name] = row.tolist()
    return found


def assert_same(some: list, others: list) -> None:
    for (batch, info), (other, other_info) in zip(some, others, strict=True):
        assert info == other_info
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


@pytest.mark.parametrize(("pack", "preprocessors"), [(True, ()), (True, [corrupt]), (False, ())])
def test_batches_from_disk_are_those_from_memory(pack, preprocessors, add_task, cache):
    name = add_task(f"stored_{pack}_{len(preprocessors)}", preprocessors=preprocessors)
    in_memory = take(open_batches(name, pack), 16)
    assert not list(cache.glob(f"{name}*"))
    assert_same(in_memory, take(open_batches(name, pack, limit=ON_DISK), 16))
    assert list(cache.glob(f"{name}*/examples.array_record"))


@pytest.mark.parametrize(("limit", "preprocessors"), [(1 << 30, [corrupt]), (ON_DISK, [])])
def test_a_run_resumes_exactly(limit, preprocessors, add_task):
    name = add_task("resumed", preprocessors=preprocessors)
    whole = take(open_batches(name, limit=limit), 14)
    for consumed in (2, 9):
        stopped = open_batches(name, limit=limit)
        take(stopped, consumed)
        resumed = open_batches(name, limit=limit)
        resumed.restore(json.loads(json.dumps(stopped.state())))
        assert_same(whole[consumed:], take(resumed, 14 - consumed))


def test_a_run_goes_on_under_another_memory_limit(add_task):
    name = add_task("moved")
    whole = take(open_batches(name), 5)
    for before, after in ((1 << 30, ON_DISK), (ON_DISK, 1 << 30)):
        stopped, resumed = open_batches(name, limit=before), open_batches(name, limit=after)
        take(stopped, 2)
        resumed.restore(stopped.state())
        assert_same(whole[2:], take(resumed, 3))


@pytest.mark.parametrize("limit", [1 << 30, ON_DISK])
def test_a_run_that_hashed_its_data_where_they_lay_goes_on(limit, add_task):
    batches = open_batches(add_task("older"), limit=limit)
    digest = hashlib.sha256()
    for name, table, rate, _ in batches.members:
        digest.update(f"{name}\0{len(table)}\0{rate}\0".encode())
        if limit == ON_DISK:
            digest.update(table.digest.encode())
            continue
        for example in table.read(range(len(table))):
            digest.update(f"{example.id}\0{len(example.inputs)}\0".encode())
            digest.update(b"".join(each.tobytes() for each in (example.inputs, *example.targets)))
    older = batches.state()
    older["data"] = f"{older['data'].rpartition(' ')[0]} {digest.hexdigest()[:16]}"
    assert (older == batches.state()) == (limit == ON_DISK)
    batches.restore(older)


def test_a_store_is_built_once_and_whole_or_not_at_all(add_task, cache, monkeypatch):
    name = add_task("built")
    write = stores._write

    def write_and_fail(directory: Path, examples) -> None:
        write(directory, examples)
        raise OSError("disk full")

    monkeypatch.setattr(stores, "_write", write_and_fail)
    with pytest.raises(OSError, match="disk full"):
        open_batches(name, limit=ON_DISK)
    assert not [path for path in cache.glob("built*") if path.is_dir()]
    monkeypatch.setattr(stores, "_write", write)
    first = take(open_batches(name, limit=ON_DISK), 3)
    monkeypatch.setattr(stores, "_write", write_and_fail)
    assert_same(first, take(open_batches(name, limit=ON_DISK), 3))


def test_a_task_whose_code_has_changed_does_not_get_the_old_store(add_task):
    before = tokens_of(open_batches(add_task("edited"), pack=False, limit=ON_DISK), 0)
    after = tokens_of(open_batches(add_task("edited", suffix="!"), pack=False, limit=ON_DISK), 0)
    assert all(after[name] != before[name] for name in before)


@pytest.fixture
def own_file(tmp_path) -> Iterator:
    """Writes rows of a JSONL file, and names the file as a task of a new process would be."""
    path = tmp_path / "own.jsonl"

    def write(count: int, edited: int | None = None) -> str:
        with path.open("w") as lines:
            for i in range(count):
                text = "changed" if i == edited else f"say {i}"
                row = {"instruction": "Repeat.", "input": text, "output": str(i)}
                lines.write(json.dumps(row) + "\n")
        mixtures.configure()  # forgets what was built
        return str(path)

    yield write
    mixtures.configure()


def test_a_file_that_has_changed_anywhere_does_not_get_the_old_store(own_file, cache):
    def tokens(name: str) -> dict[str, list[int]]:
        return tokens_of(open_batches(name, pack=False, limit=ON_DISK), 0)

    before = tokens(own_file(400))
    edited = tokens(own_file(400, edited=399))
    assert edited.keys() == before.keys()
    assert [name for name in before if edited[name] != before[name]] == ["own-399"]
    assert tokens(own_file(600)).keys() > before.keys()
    assert tokens(own_file(400)) == before
    assert len(list(cache.glob("own*/store.json"))) == 3  # the first was found again


def test_a_seqio_cache_that_was_made_again_does_not_get_the_old_store(
    add_task, tmp_path, monkeypatch
):
    """SeqIO's caches are files of TFRecords, which `seqio_cache_tasks` writes."""
    task = seqio.get_mixture_or_task(add_task("cached_before"))
    (tmp_path / "cached_before").mkdir()
    shard = tmp_path / "cached_before" / "train.tfrecord-00000-of-00001"
    (tmp_path / "cached_before" / "COMPLETED").touch()
    shard.write_bytes(b"first")
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(tmp_path)])
    first = seqio_examples.files_of(task, "train", use_cached=True)
    shard.write_bytes(b"second")
    second = seqio_examples.files_of(task, "train", use_cached=True)
    assert [(Path(path).name, size) for path, size, _ in first] == [(shard.name, 5)]
    assert [size for _, size, _ in second] == [6]


def test_the_limit_is_that_of_all_tasks_together(add_task):
    parts = [add_task("small", 100), add_task("large", 3000), add_task("last", 200)]
    seqio.MixtureRegistry.add("sizes", parts, default_rate=1)
    try:
        members = open_members("sizes", "train", LENGTHS, memory_limit_bytes=1_000_000)
    finally:
        seqio.MixtureRegistry.remove("sizes")
    in_memory = {member.name: isinstance(member.examples, MemoryTable) for member in members}
    assert in_memory == {"small": True, "large": False, "last": True}


@pytest.mark.slow(but="1073741824")
@pytest.mark.parametrize("limit", [1 << 30, ON_DISK])
def test_a_stochastic_task_draws_anew_in_every_epoch(limit, add_task, cache):
    name = add_task("corrupted", preprocessors=[corrupt])
    batches = open_batches(name, pack=False, limit=limit)
    draws = [tokens_of(batches, epoch) for epoch in range(3)]
    assert draws[0].keys() == draws[1].keys() == draws[2].keys()
    masked = [sum(row.count(300) for row in draw.values()) for draw in draws]
    for one, other in itertools.combinations(draws, 2):
        assert sum(one[example] != other[example] for example in one) > 0.8 * len(one)
    tokens = sum(np.count_nonzero(row) for row in draws[0].values())
    assert np.array(masked) / tokens == pytest.approx(0.3, abs=0.05)
    # A pure function of (seed, epoch, example), in whatever order epochs are asked for.
    again = open_batches(name, pack=False, limit=limit)
    assert [tokens_of(again, epoch) for epoch in (2, 0)] == [draws[2], draws[0]]
    assert tokens_of(open_batches(name, pack=False, seed=1, limit=limit), 0) != draws[0]
    # Of the stored draws, those that no run with this seed comes back to are gone.
    assert len(list(cache.glob(f"{name}*/store.json"))) in ((0,) if limit else (2, 3, 4))


def test_held_out_examples_of_a_stochastic_task_stay_the_same(add_task):
    name = add_task("held_out", preprocessors=[corrupt])
    first, again = (open_members(name, "validation", LENGTHS)[0].examples for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.inputs, other.inputs)


def test_draws_that_cannot_be_repeated_are_told_and_made_once(add_task, caplog):
    name = add_task("diced", preprocessors=[add_a_die])
    with caplog.at_level(logging.WARNING, "mixtures"):
        batches = open_batches(name, pack=False)
    (line,) = [record.message for record in caplog.records if "diced" in record.message]
    assert "tf.random" in line and "num_seeds" in line and "\n" not in line
    assert tokens_of(batches, 0) == tokens_of(batches, 1)


def test_held_out_examples_on_disk_give_the_batches_of_those_in_memory(add_task) -> None:
    names = [add_task("held_a", 60), add_task("held_b", 30)]
    seqio.MixtureRegistry.add("held_out", names, default_rate=1.0)
    try:
        found = {}
        for limit in (1 << 29, ON_DISK):
            members = open_members("held_out", "validation", LENGTHS, memory_limit_bytes=limit)
            examples = JoinedTable([member.examples for member in members])
            batches = eval_batches(EncoderDecoderFeatures(), examples, 8, LENGTHS)
            found[limit] = [(indices.tolist(), batch) for indices, batch in batches]
            assert len(examples) == 90 == len(list(examples)) == len(examples[:])
            assert examples[60].id == examples[59:61][1].id == "held_b:0"
        in_memory = [x for m in open_members("held_out", "validation", LENGTHS) for x in m.examples]
        listed = eval_batches(EncoderDecoderFeatures(), in_memory, 8, LENGTHS)
        found["list"] = [(indices.tolist(), batch) for indices, batch in listed]
    finally:
        seqio.MixtureRegistry.remove("held_out")
    expected = found.pop("list")
    for batches in found.values():
        assert len(batches) == len(expected) == 12
        for (places, batch), (other_places, other) in zip(batches, expected, strict=True):
            assert places == other_places
            for name in other:
                np.testing.assert_array_equal(batch[name], other[name])


def test_a_stochastic_task_is_tokenised_once_for_a_loss(
    add_task, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixtures.configure()
    monkeypatch.setattr(datasets, "_check_vocabularies", lambda name: None)
    rows = []
    read_examples = seqio_examples.read_examples

    def read(*arguments) -> Iterator:
        for example in read_examples(*arguments):
            rows.append(example.id)
            yield example

    monkeypatch.setattr(seqio_examples, "read_examples", read)
    cfg = DatasetConfig(add_task("masked", 40, [corrupt]), LENGTHS, "validation", 8)
    in_memory = list(datasets.open_flat(cfg))
    assert [example.id for example in in_memory] == rows
    assert len(rows) == 40
    on_disk = datasets.open_flat(dataclasses.replace(cfg, memory_limit_bytes=ON_DISK))
    for one, other in zip(in_memory, on_disk, strict=True):  # the draw is the same
        np.testing.assert_array_equal(one.inputs, other.inputs)


def test_a_loss_is_of_examples_that_stay_on_disk(tmp_path: Path) -> None:
    mixtures.configure()
    cfg = DatasetConfig("superni.ql.io.held_in.n10", {"inputs": 64, "targets": 16}, "validation", 8)
    whole = datasets.open_flat(cfg)
    assert all(isinstance(part, MemoryTable) for part in whole.parts())
    assert list(whole) == datasets.load_flat(cfg)
    stored = datasets.open_flat(dataclasses.replace(cfg, memory_limit_bytes=ON_DISK))
    assert not any(isinstance(part, MemoryTable) for part in stored.parts())
    assert len(stored) == len(whole)
    assert [example.id for example in stored] == [example.id for example in whole]
    assert stored.cuts == cuts_by_task(whole)
