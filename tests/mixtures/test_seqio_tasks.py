"""What `superni.*` names give to plain SeqIO users, on the real task files."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow as tf

import mixtures
from mixtures import files, lookup, task_metrics
from mixtures.errors import DataError
from mixtures.release import Release
from mixtures.vocabularies import ByteVocabulary, SentencePieceVocabulary

LENGTHS = {"inputs": 1024, "targets": 128}
TASK = "task1344_glue_entailment_classification"
NAME = f"superni.ql.def_pos2.{TASK}.n200"
MANY_REFERENCES = "task670_ambigqa_question_generation"


@pytest.fixture(scope="module")
def vocabulary(superni_dir, tmp_path_factory) -> SentencePieceVocabulary:
    """1,000 pieces, trained on one task's inputs."""
    folder = tmp_path_factory.mktemp("vocabulary")
    texts = [instance.input for instance in Release(superni_dir).task(TASK).instances]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "tiny"),
        vocab_size=1000,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return SentencePieceVocabulary(str(folder / "tiny.model"))


@pytest.fixture
def configure(superni_dir, vocabulary):
    """`mixtures.configure` on the real data; called once with defaults, which come back after."""

    def on_real_data(**settings):
        return mixtures.configure(superni_dir, vocabulary, **settings)

    on_real_data()
    yield on_real_data
    mixtures.configure()


def read(name: str, split: str, lengths: dict[str, int] | None = LENGTHS) -> list[dict]:
    dataset = seqio.get_mixture_or_task(name).get_dataset(lengths, split, shuffle=False)
    return list(dataset.as_numpy_iterator())


def ids(examples: list[dict]) -> list[str]:
    return [example["id"].decode() for example in examples]


def assert_same(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_every_seqio_look_up_builds_the_task(configure):
    assert NAME not in list(seqio.TaskRegistry.names())
    task = seqio.TaskRegistry.get(NAME)
    assert seqio.get_mixture_or_task(NAME) is task
    assert NAME in seqio.TaskRegistry.names() and NAME not in seqio.MixtureRegistry.names()
    assert list(task.splits) == ["train", "validation", "test"]
    assert [task.num_input_examples(split) for split in task.splits] == [200, 10, 100]
    mixture = seqio.Mixture("some_mixture", [(NAME, 3), (NAME.replace("n200", "n10"), 1)])
    assert {member.name for member in mixture.tasks} == {NAME, NAME.replace("n200", "n10")}
    assert seqio.get_mixture_or_task(f"superni.ql.io.{TASK}.10").num_input_examples("train") == 10
    with pytest.raises(ValueError, match="No Task or Mixture found"):
        seqio.get_mixture_or_task("not_ours")


def test_examples_carry_tokens_texts_and_all_references(configure, superni_dir):
    examples = read(f"superni.ql.def_pos2.{MANY_REFERENCES}.n10", "test")
    record = Release(superni_dir).task(MANY_REFERENCES)
    feature = seqio.get_mixture_or_task(NAME).output_features["inputs"]
    assert len(examples) == 100
    for example, instance in zip(examples, record.instances[:100], strict=True):
        assert example["task"].decode() == MANY_REFERENCES
        assert example["category"].decode() == "Question Rewriting"
        assert example["id"].decode() == instance.id
        assert tuple(text.decode() for text in example["references"]) == instance.references
        assert example["targets_pretokenized"].decode() in instance.references
        assert example["inputs_tokens_before"] == len(example["inputs"]) - 1
        assert example["truncated"] == 0
        for name in ("inputs", "targets"):
            assert example[name].dtype == np.int32
            text = example[f"{name}_pretokenized"]
            expected = [*feature.vocabulary.encode_tf(text).numpy(), 1]
            np.testing.assert_array_equal(example[name], expected)
    assert len({len(example["references"]) for example in examples}) > 1


def test_prompts_are_the_golden_ones_byte_for_byte(configure, superni_dir):
    lines = (superni_dir / "golden" / "quick_learners_prompts.jsonl").read_text().split("\n")
    rows = [row for row in map(json.loads, filter(None, lines)) if row["split"] == "test"]
    by_task = collections.defaultdict(list)
    for row in rows:
        by_task[row["task"]].append(row)
    for task in list(by_task)[:3]:
        for prompt, field in (("ql.def_pos2", "with"), ("ql.io", "without")):
            examples = read(mixtures.task_name(prompt, task, "all"), "test", lengths=None)
            for row in by_task[task]:
                text = examples[row["row"]]["inputs_pretokenized"].decode()
                assert text == row[f"inputs_{field}_instruction"]


def test_long_prompts_keep_their_question_and_their_eos(configure):
    name = mixtures.task_name("tk.def_pos2", TASK, "all")
    whole = read(name, "validation", lengths=None)
    short = {"inputs": 100, "targets": 2}
    kept = read(name, "validation", short)
    configure(trim="right")
    cut = read(name, "validation", short)
    for before, ours, theirs in zip(whole, kept, cut, strict=True):
        assert before["truncated"] == 0
        for example in (ours, theirs):
            assert example["truncated"] == 1
            assert example["inputs_tokens_before"] == len(before["inputs"]) - 1
            assert len(example["inputs"]) <= 100 and example["inputs"][-1] == 1
            assert len(example["targets"]) == 2 and example["targets"][-1] == 1
        question = before["inputs_pretokenized"].decode().rpartition("Input: ")[2]
        assert ours["inputs_pretokenized"].decode().endswith(question[-60:])
        assert theirs["inputs_pretokenized"] == before["inputs_pretokenized"]
        np.testing.assert_array_equal(theirs["inputs"][:-1], before["inputs"][:99])


def test_budgets_nest_and_leave_the_other_splits_alone(configure):
    budgets = ("p1", "n10", "n100", "all")
    names = {budget: mixtures.task_name("ql.io", TASK, budget) for budget in budgets}
    chosen = {budget: set(ids(read(name, "train"))) for budget, name in names.items()}
    assert [len(chosen[budget]) for budget in budgets] == [2, 10, 100, 200]
    assert chosen["p1"] < chosen["n10"] < chosen["n100"] < chosen["all"]
    test = ids(read(names["n10"], "test"))
    assert test == ids(read(names["all"], "test")) and not chosen["all"] & set(test)
    configure(budget_seed=1)
    assert set(ids(read(names["n10"], "train"))) != chosen["n10"]
    configure(budget_order="release")
    assert ids(read(names["n10"], "train")) == [f"task1344-{index}" for index in range(110, 120)]


def test_scopes_are_their_tasks_one_after_the_other(configure, superni_dir):
    release = Release(superni_dir)
    held_in = seqio.get_mixture_or_task("superni.ql.io.held_in.n10")
    assert isinstance(held_in, seqio.Task)
    assert held_in.num_input_examples("test") == 9910  # 98 x 100 + 84 + 26
    category = read("superni.ql.io.Overlap_Extraction.n10", "test")
    (only,) = release.categories("test")["Overlap Extraction"]
    assert_same(category, read(mixtures.task_name("ql.io", only, "n10"), "test"))
    pretune = seqio.get_mixture_or_task("superni.ql.io.pretune.n100")
    assert list(pretune.splits) == ["train", "validation"]
    sizes = [min(100, len(release.task(name).instances)) for name in release.names("train")]
    assert pretune.num_input_examples("train") == sum(sizes)


def test_two_tasks_of_a_category_equal_their_concatenation(configure, superni_dir):
    names = Release(superni_dir).categories("test")["Keyword Tagging"]
    together = read("superni.ql.io.Keyword_Tagging.n10", "train")
    apart = [read(mixtures.task_name("ql.io", name, "n10"), "train") for name in names]
    assert len(names) == 4
    assert_same(together, [example for examples in apart for example in examples])


def test_shards_are_disjoint_and_shuffling_covers_the_split(configure):
    task = seqio.get_mixture_or_task(NAME)
    whole = ids(read(NAME, "train"))

    def read_shard(**settings) -> list[str]:
        return ids(task.get_dataset(LENGTHS, "train", **settings).as_numpy_iterator())

    shards = [read_shard(shard_info=seqio.ShardInfo(i, 7), shuffle=False) for i in range(7)]
    assert sorted(map(len, shards)) == [28, 28, 28, 29, 29, 29, 29]
    assert sorted(sum(shards, [])) == sorted(whole)
    first, second, other = (read_shard(seed=seed) for seed in (1, 1, 2))
    assert first == second != other
    assert sorted(first) == sorted(other) == sorted(whole)
    moved = [abs(place - first.index(name)) for place, name in enumerate(whole)]
    assert np.mean(moved) > 40  # an even shuffle of 200 moves a row 67 places on average
    assert len(read_shard(num_epochs=2, shuffle=False)) == 400


@pytest.mark.parametrize("pack", [False, True])
def test_feature_converter_keeps_every_token(configure, pack):
    dataset = seqio.get_dataset(
        NAME,
        LENGTHS,
        seqio.EncDecFeatureConverter(pack=pack),
        "validation",
        shuffle=False,
    )
    batches = list(dataset.as_numpy_iterator())
    examples = read(NAME, "validation")
    tokens = np.concatenate([example["inputs"] for example in examples])
    found = np.concatenate([batch["encoder_input_tokens"] for batch in batches])
    np.testing.assert_array_equal(found[found != 0], tokens)
    weights = sum(batch["decoder_loss_weights"].sum() for batch in batches)
    assert weights == sum(len(example["targets"]) for example in examples)
    assert (len(batches) < 10) == pack


def test_a_seqio_cache_gives_the_same_examples_at_any_length(configure, monkeypatch, tmp_path):
    task = seqio.get_mixture_or_task(f"superni.tk.def_pos2_neg2.{MANY_REFERENCES}.n10")
    _write_cache(task, "train", tmp_path / task.name)
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(tmp_path)])
    for lengths in (LENGTHS, {"inputs": 120, "targets": 8}):
        cached = task.get_dataset(lengths, "train", use_cached=True, shuffle=False)
        fresh = task.get_dataset(lengths, "train", shuffle=False)
        assert_same(list(cached.as_numpy_iterator()), list(fresh.as_numpy_iterator()))


def _write_cache(task: seqio.Task, split: str, directory: Path) -> None:
    """Writes what `seqio_cache_tasks` writes, without Apache Beam."""
    directory.mkdir()
    dataset = task.preprocess_precache(task.source.get_dataset(split, shuffle=False))
    spec = {
        name: {"shape": list(tensor.shape), "dtype": "string"}
        for name, tensor in dataset.element_spec.items()
    }
    count = 0
    prefix = seqio.utils.get_cached_tfrecord_prefix(str(directory), split)
    with tf.io.TFRecordWriter(f"{prefix}-00000-of-00001") as writer:
        for row in dataset.as_numpy_iterator():
            writer.write(seqio.utils.dict_to_tfexample(row).SerializeToString())
            count += 1
    info = {"features": spec, "num_shards": 1, "seqio_version": seqio.__version__}
    Path(seqio.utils.get_cached_info_path(str(directory), split)).write_text(json.dumps(info))
    stats = json.dumps({"examples": count})
    Path(seqio.utils.get_cached_stats_path(str(directory), split)).write_text(stats)
    (directory / "COMPLETED").touch()


def test_seqio_evaluator_scores_against_all_references(configure, superni_dir):
    """A predictor that always answers with the last reference is right, whatever was drawn."""
    mixtures.configure(superni_dir, ByteVocabulary())  # loses nothing of the answers
    name = f"superni.ql.io.{MANY_REFERENCES}.all"
    evaluator = seqio.Evaluator(
        name,
        seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        sequence_length=LENGTHS,
    )
    task = seqio.get_mixture_or_task(name)
    encode = task.output_features["targets"].vocabulary.encode
    answers = np.zeros([10, 400], np.int32)
    for answer, example in zip(answers, read(name, "validation"), strict=True):
        tokens = [*encode(example["references"][-1].decode()), 1]
        answer[: len(tokens)] = tokens

    def predict(dataset: tf.data.Dataset) -> list[tuple[int, np.ndarray]]:
        return [(int(index), answers[int(index)]) for index, _ in dataset]

    metrics, _ = evaluator.evaluate(
        compute_metrics=True, predict_fn=predict, score_fn=lambda dataset: []
    )
    assert metrics.result()[name] == pytest.approx({"rougeL": 100.0, "exact_match": 100.0})


def test_metrics_are_the_golden_ones(superni_dir):
    lines = (superni_dir / "golden" / "scores.jsonl").read_text().split("\n")
    rows = [json.loads(line) for line in lines if line]
    for row in rows[::5]:
        targets, predictions = [row["references"]], [row["prediction"]]
        rouge = task_metrics.rouge_l(targets, predictions)["rougeL"]
        assert rouge == pytest.approx(100 * row["rougeL"], abs=1e-4)
        match = task_metrics.exact_match(targets, predictions)["exact_match"]
        assert match == 100 * row["exact_match"]
    targets, predictions = zip(
        *((row["references"], row["prediction"]) for row in rows), strict=True
    )
    summary = json.loads((superni_dir / "golden" / "scores_summary.json").read_text())["overall"]
    assert round(task_metrics.rouge_l(targets, predictions)["rougeL"], 4) == summary["rougeL"]
    found = task_metrics.exact_match(targets, predictions)["exact_match"]
    assert round(found, 4) == summary["exact_match"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"superni.ql.def_pos3.{TASK}.n10", "prompt 'ql.def_pos3'.*did you mean 'ql.def_pos2'"),
        ("superni.alpacca.held_in.n10", "prompt 'alpacca'.*did you mean 'alpaca'"),
        (f"superni.ql.io.{TASK}.ten", "budget 'ten'; allowed: a count"),
        (f"superni.ql.io.{TASK}", "allowed: superni.<prompt>.<scope>.<budget>"),
        (f"superni.ql.io.{TASK}x.n10", f"did you mean '{TASK}'"),
        ("superni.ql.io.heldin.n10", "scope 'heldin' is unknown; .*; did you mean 'held_in'"),
        ("superni.ql.io.Textual_Entailmnt.n10", "did you mean 'Textual_Entailment'"),
        ("superni.ql.io.task288_gigaword_summarization.n10", "in the test list, but has no file"),
        ("superni.held_in", "name 'superni.held_in'; allowed: superni.<prompt>.<scope>.<budget>"),
    ],
)
def test_wrong_names_get_one_line_with_the_nearest(configure, name, message):
    with pytest.raises(DataError, match=message) as caught:
        seqio.get_mixture_or_task(name)
    assert "\n" not in str(caught.value)


def test_resolve_takes_names_and_scopes(configure):
    assert mixtures.resolve(NAME) == mixtures.resolve(NAME, "ql.def_pos2", 200) == NAME
    assert mixtures.resolve("held_in", "ql.io", 10) == "superni.ql.io.held_in.n10"
    assert mixtures.resolve("Textual Entailment") == "superni.tk.def_pos2.Textual_Entailment.all"
    for arguments, message in (
        ((NAME, "ql.io"), "prompt 'ql.io' with .* which has 'ql.def_pos2'"),
        ((NAME, None, 10), "budget 'n10' with .* which has 'n200'"),
        (("held_in", "ql.io", 0), "budget 0; allowed: a count"),
        (("held_inn", "ql.io"), "MIXTURE_OR_TASK_NAME: scope 'held_inn' .*did you mean 'held_in'"),
    ):
        with pytest.raises(DataError, match=message):
            mixtures.resolve(*arguments)


def test_configure_gives_names_a_new_meaning(configure, superni_dir):
    before = seqio.get_mixture_or_task(NAME)
    configure(split_policy="paper")
    leaking = "superni.ql.io.task640_esnli_classification.all"
    assert ids(read(leaking, "train")) == ids(read(leaking, "test"))
    assert seqio.get_mixture_or_task(NAME) is not before
    with pytest.raises(DataError, match="split_policy 'papr'; allowed: disjoint, paper"):
        configure(split_policy="papr")
    configure(missing="refuse")
    with pytest.raises(DataError, match="515 of 756 tasks have no file"):
        seqio.get_mixture_or_task(NAME)


def test_nothing_is_read_before_a_name_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("SUPERNI_DIR", str(tmp_path / "nowhere"))
    mixtures.configure(vocabulary=tmp_path / "no.model")
    with pytest.raises(DataError, match="SUPERNI_DIR .* is not a directory"):
        seqio.get_mixture_or_task(NAME)
    monkeypatch.delenv("SUPERNI_DIR")
    mixtures.configure(vocabulary=tmp_path / "no.model")
    with pytest.raises(DataError, match="vocabulary: file not found"):
        seqio.get_mixture_or_task("superni.ql.io.held_in.n10")
    mixtures.configure()


def test_tensorflow_sees_no_accelerator():
    assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}


def test_opening_a_task_reads_its_own_file_only(configure, superni_dir, monkeypatch):
    names = [
        mixtures.task_name("tk.def_pos2", task, "n100")
        for task in Release(superni_dir).names("test")[:12]
    ]
    read(names[0], "train")  # the first one also loads the vocabulary
    opened: list[Path] = []
    read_bytes = files.read_bytes

    def note_and_read(path):
        opened.append(Path(path))
        return read_bytes(path)

    monkeypatch.setattr(files, "read_bytes", note_and_read)
    for name in names[1:]:
        seqio.get_mixture_or_task(name).get_dataset(LENGTHS, "train", shuffle=False)
    tasks = [path for path in opened if path.parent.name == "tasks"]
    assert len(set(tasks)) == len(names) - 1 and len(tasks) <= 2 * len(names)


@pytest.mark.parametrize(
    ("name", "prompt", "expected"),
    [
        ("superni.ql.def_pos2.held_in.n20", None, "ql.def_pos2"),
        ("held_in", None, "tk.def_pos2"),
        ("held_in", "tk.def", "tk.def"),
        ("/data/mine.jsonl", "alpaca", "alpaca"),
        ("writing.jfleg", None, "alpaca_lora"),
        ("writing.alpaca.jfleg", None, "alpaca"),
        ("self.biomedicine.seeds", "ss.none", "ss.none"),
        ("self.biomedicine.ncbi_disease.k5", None, "alpaca"),  # with demonstrations or without
    ],
)
def test_the_prompt_of_a_name_is_known_without_its_data(name, prompt, expected) -> None:
    assert lookup.prompt_of(name, prompt) == expected
