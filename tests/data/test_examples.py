"""Loading through SeqIO: hand-registered tasks, mixtures, and the names of `mixtures`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import seqio
import tensorflow as tf

import mixtures
from mixtures.prompts import choose_reference, reference_index
from mixtures.records import Row
from mixtures.vocabularies import ByteVocabulary
from t5x_ext.data import examples as examples_module
from t5x_ext.data import seqio_examples
from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.opening import load_examples, open_members
from t5x_ext.errors import ConfigError

LENGTHS = {"inputs": 12, "targets": 6}
BYTES = seqio.ByteVocabulary()  # id of a byte = byte + 3
PREPROCESSORS = (seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim)


def byte_ids(text: str) -> list[int]:
    return [byte + 3 for byte in text.encode("utf-8")]


@pytest.fixture
def registered() -> Iterator[list[str]]:
    """Names registered by a test; taken out again after it."""
    names: list[str] = []
    yield names
    for name in names:
        registry = seqio.TaskRegistry if name in seqio.TaskRegistry.names() else None
        (registry or seqio.MixtureRegistry).remove(name)


@pytest.fixture
def add_task(registered):
    def add(name: str, rows: list[dict], preprocessors=PREPROCESSORS, splits=("train", "test")):
        def read(split: str, shuffle_files: bool) -> tf.data.Dataset:
            columns = {key: tf.constant([row[key] for row in rows]) for key in rows[0]}
            return tf.data.Dataset.from_tensor_slices(columns)

        registered.append(name)
        return seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(read, splits=splits),
            preprocessors=list(preprocessors),
            output_features={key: seqio.Feature(BYTES) for key in ("inputs", "targets")},
        )

    return add


def test_a_plain_task_fills_in_what_its_rows_do_not_have(add_task):
    add_task("plain", [{"inputs": "hello", "targets": "yes"}, {"inputs": "é", "targets": "no"}])
    first, second = load_examples("plain", "train", LENGTHS)
    assert (first.id, second.id) == ("plain:0", "plain:1")
    assert (first.task, first.category, first.truncated) == ("plain", "", False)
    assert first.inputs.tolist() == [*byte_ids("hello"), 1]
    assert first.inputs.dtype == np.int32
    assert [target.tolist() for target in first.targets] == [[*byte_ids("yes"), 1]]
    assert (second.inputs_pretokenized, second.references) == ("é", ("no",))


def test_rows_are_the_same_however_many_are_read_at_a_time(add_task):
    count = 2 * seqio_examples._ROWS_PER_BATCH + 1
    rows = [{"inputs": "x" * (n % 9), "targets": "y" * (n % 5 + 1)} for n in range(count)]

    def add_references(dataset: tf.data.Dataset) -> tf.data.Dataset:
        def split(text: bytes) -> np.ndarray:
            return np.array([text[:end] for end in range(1, len(text) + 1)], object)

        return dataset.map(
            lambda row: row | {"references": tf.numpy_function(split, [row["targets"]], tf.string)}
        )

    task = add_task("batched", rows, (add_references, *PREPROCESSORS))
    dataset = task.get_dataset(LENGTHS, "train", shuffle=False)
    for row, expected in zip(
        seqio_examples._rows(dataset), dataset.as_numpy_iterator(), strict=True
    ):
        assert row["inputs"].tolist() == expected["inputs"].tolist()
        assert row["targets"].tolist() == expected["targets"].tolist()
        assert row["inputs_pretokenized"] == expected["inputs_pretokenized"]
        assert row["references"].tolist() == expected["references"].tolist()


def test_lengths_count_eos(add_task):
    add_task("long", [{"inputs": "a" * 50, "targets": "b" * 50}])
    (example,) = load_examples("long", "train", LENGTHS)
    assert example.inputs.tolist() == [*byte_ids("a" * 11), 1]
    assert example.targets[0].tolist() == [*byte_ids("b" * 5), 1]


def test_every_reference_becomes_a_target_in_the_tasks_own_tokens(add_task):
    row = {
        "inputs": "q",
        "targets": "two",
        "references": ["one", "two", "longer than six"],
        "id": "x-1",
        "task": "real",
        "category": "Cat",
        "truncated": 1,
    }
    add_task("many", [row])
    (example,) = load_examples("many", "train", LENGTHS)
    expected = [[*byte_ids(text), 1] for text in ("one", "two", "longe")]
    assert [target.tolist() for target in example.targets] == expected
    assert example.references == ("one", "two", "longer than six")
    assert (example.id, example.task, example.category) == ("x-1", "real", "Cat")
    assert example.truncated is True


def test_references_are_no_targets_where_the_task_rewrites_its_targets(add_task):
    add_task("rewritten", [{"inputs": "q", "targets": "A", "references": ["one", "two"]}])
    (example,) = load_examples("rewritten", "train", LENGTHS)
    assert [target.tolist() for target in example.targets] == [[*byte_ids("A"), 1]]
    assert example.references == ("one", "two")


def test_text_is_decoded_where_a_task_keeps_none(add_task):
    def drop_text(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(lambda row: {key: row[key] for key in ("inputs", "targets")})

    add_task("bare", [{"inputs": "hi", "targets": "yo"}], (*PREPROCESSORS, drop_text))
    (example,) = load_examples("bare", "train", LENGTHS)
    assert (example.inputs_pretokenized, example.references) == ("hi", ("yo",))


def test_stochastic_preprocessors_give_the_same_examples_at_every_load(add_task, monkeypatch):
    @seqio.map_over_dataset(num_seeds=1)
    def append_number(row, seed):
        number = tf.random.stateless_uniform([], seed, 0, 10**6, tf.int32)
        return {**row, "inputs": row["inputs"] + tf.strings.as_string(number)}

    rows = [{"inputs": "n", "targets": "t"}] * 8
    add_task("stochastic", rows, (append_number, *PREPROCESSORS))

    def load() -> list[str]:
        monkeypatch.setattr(examples_module, "_recent", examples_module._RecentExamples(0))
        return [ex.inputs_pretokenized for ex in load_examples("stochastic", "train", LENGTHS)]

    assert len(set(load())) > 1
    assert load() == load()


def test_a_mixture_keeps_its_rates_and_leaves_out_tasks_without_the_split(add_task, registered):
    add_task("a", [{"inputs": "a", "targets": "t"}] * 3)
    add_task("b", [{"inputs": "b", "targets": "t"}] * 2)
    add_task("c", [{"inputs": "c", "targets": "t"}], splits=("validation",))
    seqio.MixtureRegistry.add("inner", ["a", "b"], default_rate=1.0)
    seqio.MixtureRegistry.add("outer", [("inner", 4.0), ("b", 1.0), ("c", 7.0)])
    registered.extend(["outer", "inner"])
    members = open_members("outer", "train", LENGTHS)
    assert [(m.name, len(m.examples), m.rate) for m in members] == [("a", 3, 2.0), ("b", 2, 3.0)]
    assert len(load_examples("outer", "train", LENGTHS)) == 5
    assert TrainBatches(members, 5, LENGTHS, pack=False, seed=0).steps_per_epoch() == 1


def test_loading_again_reads_nothing_and_other_lengths_read_again(add_task):
    add_task("again", [{"inputs": "hello", "targets": "yes"}])
    first = load_examples("again", "train", LENGTHS)
    again = load_examples("again", "train", LENGTHS)
    assert again is not first
    assert again[0] is first[0]
    shorter = load_examples("again", "train", {"inputs": 3, "targets": 6})
    assert len(shorter[0].inputs) == 3


def test_a_name_registered_anew_is_read_anew(add_task):
    add_task("renewed", [{"inputs": "old", "targets": "t"}])
    assert load_examples("renewed", "train", LENGTHS)[0].inputs_pretokenized == "old"
    seqio.TaskRegistry.remove("renewed")
    add_task("renewed", [{"inputs": "new", "targets": "t"}])
    assert load_examples("renewed", "train", LENGTHS)[0].inputs_pretokenized == "new"


def test_the_memory_forgets_what_was_used_longest_ago():
    memory = examples_module._RecentExamples(capacity=4)
    memory.put("a", [1, 2])
    memory.put("b", [3])
    assert memory.get("a") == [1, 2]
    memory.put("c", [4, 5])
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == ([1, 2], None, [4, 5])


def test_mistakes_get_one_clear_line(add_task):
    add_task("there", [{"inputs": "a", "targets": "t"}])
    with pytest.raises(ConfigError, match="^there: split 'tests'; allowed: test, train$"):
        load_examples("there", "tests", LENGTHS)
    with pytest.raises(ConfigError, match="^TASK_FEATURE_LENGTHS: {'inputs': 8}; allowed"):
        load_examples("there", "train", {"inputs": 8})
    with pytest.raises(ConfigError, match="^TASK_FEATURE_LENGTHS: .*2 to 1,048,576 tokens each"):
        load_examples("there", "train", {"inputs": 8, "targets": 1})


def test_training_draws_the_references_that_it_always_drew():
    row = Row("task", "", "id-7", "d", "i", tuple("abcdefg"), (), ())
    drawn = [choose_reference(row, 3, epoch) for epoch in range(12)]
    assert "".join(drawn) == "bafbccagdbbg"
    assert [reference_index(7, 3, "id-7", epoch) for epoch in range(4)] == [1, 0, 5, 1]


@pytest.fixture
def fresh_context() -> Iterator[None]:
    mixtures.configure()
    yield
    mixtures.configure()


def test_bundled_tasks_load_by_name(fresh_context):
    train = load_examples("superni.ql.def_pos2.held_in.n10", "train", {"inputs": 64, "targets": 8})
    test = load_examples("superni.ql.def_pos2.held_in.n10", "test", {"inputs": 64, "targets": 8})
    assert {ex.task for ex in train} == {ex.task for ex in test}
    assert not {(ex.task, ex.id) for ex in train} & {(ex.task, ex.id) for ex in test}
    for example in train + test:
        assert example.inputs[-1] == 1
        assert len(example.inputs) <= 64
        assert len(example.targets) == len(example.references)
        assert all(target[-1] == 1 and len(target) <= 8 for target in example.targets)
        assert example.category


def test_a_mixture_follows_the_configuration(fresh_context, registered):
    """Also one that was registered before it, as by an import in a gin file."""
    name = "superni.ql.io.held_in.n10"
    seqio.MixtureRegistry.add("around", [name], default_rate=lambda task: len(task.splits))
    seqio.MixtureRegistry.add("around_it", ["around"], default_rate=1.0)
    registered.extend(["around_it", "around"])
    before = load_examples("around_it", "train", LENGTHS)
    mixtures.configure(vocabulary=ByteVocabulary(), budget_seed=7)
    ((_, after, rate, _),) = open_members("around_it", "train", LENGTHS)
    assert list(after) == load_examples(name, "train", LENGTHS)
    assert {ex.id for ex in after} != {ex.id for ex in before}
    assert after[0].inputs.tolist()[:6] == byte_ids("input:")
    assert rate == 1.0


def test_budgets_share_their_test_rows_and_other_settings_do_not(fresh_context):
    def load(budget: str, split: str, **settings):
        mixtures.configure(**settings)
        task = next(iter(mixtures.current_context().store.names("test")))
        return load_examples(mixtures.task_name("ql.io", task, budget), split, LENGTHS)[0]

    test = load("n10", "test")
    assert load("n100", "test", budget_seed=7) is test
    assert load("n10", "test", trim="right") is not test
    train = load("n10", "train")
    assert load("n10", "train") is train
    assert load("n20", "train") is not train
    assert load("n10", "train", budget_seed=7) is not train
