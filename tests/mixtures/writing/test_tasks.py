"""`writing.*` names as SeqIO tasks, over real sets and the bundled suite."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import seqio

import mixtures
from mixtures import task_metrics
from mixtures.errors import DataError
from mixtures.prompts import get_prompt
from mixtures.records import Row
from mixtures.writing.names import mixture_name, parse_name
from mixtures.writing.sets import INSTRUCTIONS
from mixtures.writing.tasks import fingerprint, read_parts, register_mixture
from mixtures.writing.tokens import detokenize
from mixtures.writing.wordings import WORDINGS
from t5x_ext.data.opening import load_examples

LENGTHS = {"inputs": 512, "targets": 256}


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("WRITING_DIR", raising=False)
    mixtures.configure()
    yield
    mixtures.configure()


@pytest.fixture
def real(writing_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITING_DIR", str(writing_dir / "data"))


def first(name: str, split: str) -> dict:
    task = seqio.get_mixture_or_task(name)
    return next(task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator())


def test_a_set_carries_its_source_and_every_reference_as_distributed(real: None) -> None:
    row = first("writing.jfleg", "test")
    assert row["source"].decode() == "New and new technology has been introduced to the society ."
    assert len(row["references"]) == 4
    assert row["references"][0].decode() == "New technology has been introduced to society ."
    assert row["target_texts"][0].decode() == "New technology has been introduced to society."
    assert (row["task"], row["category"]) == (b"jfleg", b"fluency")
    prompt = row["inputs_pretokenized"].decode()
    assert "### Instruction:\nMake the text more fluent.\n\n### Input:\nNew and new" in prompt
    assert prompt.endswith("to the society.\n\n### Response:\n")


def test_gold_edits_travel_with_their_row(real: None) -> None:
    row = first("writing.jfleg_edits", "validation")
    edits = json.loads(row["edits"])
    assert list(edits) == ["0", "1", "2", "3"]
    assert edits["0"][0] == [4, 5, ["would"], "R:VERB:TENSE"]
    assert row["category"] == b"grammaticality"


def test_the_target_of_a_tokenised_set_is_natural_text(real: None) -> None:
    row = first("writing.turkcorpus", "train")
    assert row["targets_pretokenized"] in list(row["target_texts"])
    natural = [detokenize(text.decode()) for text in row["references"]]
    assert [text.decode() for text in row["target_texts"]] == natural


def test_a_mixture_has_the_numbers_of_rows_that_it_says(real: None) -> None:
    name = mixture_name({"fluency": 300, "asset:validation": 50, "generic": 400})
    assert name == "writing.mixed.fluency_300.asset:validation_50.generic_400"
    parts = read_parts(name, "train")
    assert {part: len(rows) for part, rows in parts.items()} == {
        "fluency": 300,
        "asset:validation": 50,
        "generic": 400,
    }
    # Alpaca's seed tasks give a fifth, the SuperNI tasks at hand the rest.
    assert Counter(row.task for row in parts["generic"]) == {"alpaca_seed": 80, "superni": 320}
    ids = [
        example["id"]
        for example in seqio.get_mixture_or_task(name)
        .get_dataset(LENGTHS, "train", shuffle=False)
        .as_numpy_iterator()
    ]
    assert len(ids) == 750


def test_generic_rows_need_no_file_of_alpaca(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WRITING_DIR", str(tmp_path))
    monkeypatch.delenv("SUPERNI_DIR", raising=False)
    parts = read_parts("writing.mixed.generic_30", "train")
    assert Counter(row.task for row in parts["generic"]) == {"superni": 30}


def test_a_task_by_itself_falls_back_as_in_a_mixture(real: None, monkeypatch, tmp_path) -> None:
    train = read_parts("writing.grammaticality.n100", "train")["grammaticality"]
    assert len(train) == 100
    validation = read_parts("writing.grammaticality", "validation")["jfleg_edits"]
    assert {row.id for row in train} < {row.id for row in validation}
    assert list(read_parts("writing.grammaticality", "test")) == ["jfleg_edits"]
    monkeypatch.setenv("WRITING_DIR", str(tmp_path))
    monkeypatch.delenv("SUPERNI_DIR", raising=False)
    (rows,) = read_parts("writing.generic.n30", "train").values()
    assert Counter(row.task for row in rows) == {"superni": 30}
    with pytest.raises(DataError, match=r"'grammaticality': no training set in .*; allowed: wi_"):
        read_parts("writing.grammaticality.n100", "train")


def test_a_share_of_a_task_of_two_sources_is_of_both(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WRITING_DIR", str(tmp_path))
    for name, count, references in (("turkcorpus.tune", 20, 8), ("wikilarge.train", 30, 1)):
        lines = [
            json.dumps({"input": f"{name} {i}.", "references": ["A."] * references})
            for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))

    def counts(budget: str) -> dict[str, int]:
        (rows,) = read_parts(f"writing.simplification.{budget}", "train").values()
        return Counter(row.task for row in rows)

    assert counts("p20") == counts("n10") == {"turkcorpus": 2, "wikilarge": 8}
    # Beyond a fifth and four fifths the larger set makes up for the smaller.
    assert counts("n45") == {"turkcorpus": 15, "wikilarge": 30}
    assert counts("p100") == counts("all") == {"turkcorpus": 20, "wikilarge": 30}


def test_smaller_mixtures_are_parts_of_larger_ones() -> None:
    def ids(count: int) -> set[str]:
        parts = read_parts(f"writing.train.{count}", "train")
        assert [len(rows) for rows in parts.values()] == [count] * 6
        return {row.id for rows in parts.values() for row in rows}

    assert ids(20) < ids(50) < ids(200)


def test_a_changed_mixture_changes_the_fingerprint() -> None:
    base = fingerprint("writing.mixed.generic_100.fluency_50")
    assert base == fingerprint("writing.mixed.generic_100.fluency_50")
    assert base != fingerprint("writing.mixed.generic_100.fluency_51")
    mixtures.configure(budget_seed=1)
    assert base != fingerprint("writing.mixed.generic_100.fluency_50")


def test_the_bundled_suite_is_the_default_and_the_held_out_task_is_not_trained() -> None:
    parts = read_parts("writing.mixed", "train")
    assert {part: len(rows) for part, rows in parts.items()} == {
        "generic": 5200,
        "grammaticality": 1000,
        "fluency": 1000,
        "clarity": 1000,
        "coherence": 1000,
        "simplification": 1000,
        "neutralization": 1000,
    }
    row = first("writing.clarity", "test")
    assert row["task"] == b"clarity"


def test_prompt_and_budget_are_part_of_a_name() -> None:
    resolved = mixtures.resolve("writing.clarity", prompt="alpaca", budget=10)
    assert resolved == "writing.alpaca.clarity.n10"
    assert len(read_parts(resolved, "train")["clarity"]) == 10
    assert mixtures.resolve(resolved) == resolved
    assert first(resolved, "test")["inputs_pretokenized"].endswith(b"### Response:")
    assert parse_name("writing.alpaca").part == "alpaca"  # the set, not the prompt


def test_the_data_directory_has_a_folder_of_writing_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "writing" / "stsb").mkdir(parents=True)
    (tmp_path / "writing" / "stsb" / "stsb-en-test.csv").write_text("A b.,B a.,5.0\n")
    mixtures.configure(data_dir=tmp_path)
    assert first("writing.stsb", "test")["references"].tolist() == [b"B a."]
    monkeypatch.setenv("WRITING_DIR", str(tmp_path / "nowhere"))
    assert first("writing.stsb", "test")["references"].tolist() == [b"B a."]
    mixtures.configure()
    with pytest.raises(DataError, match=r"WRITING_DIR '.*nowhere' is not a directory; allowed"):
        seqio.get_mixture_or_task("writing.stsb")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("writing.jflag", r"writing set or task 'jflag' is unknown; .*; did you mean 'jfleg'\?"),
        ("writing.train", r"allowed: writing.train.<count>"),
        ("writing.train.many", r"'many'; allowed: a number of rows"),
        ("writing.mixed.fluency_0", r"budget '0'; allowed: a count"),
        ("writing.mixed.fluency", r"unknown; allowed|is unknown"),
        ("writing.mixed.fluency_1.fluency_2", r"part 'fluency' occurs twice"),
        ("writing.mixed.jfleg:dev_3", r"split 'dev'; allowed: train, validation, test"),
        ("writing.fluency.w9", r"'w9'; allowed: w1 to w4"),
        ("writing.generic.w1", r"'w1'; allowed: no other wording of generic"),
        ("writing.fluency.n5.w1", r"allowed: .*with .<budget> or .w<number>"),
        ("writing.jfleg", r"writing set 'jfleg' without WRITING_DIR; allowed: WRITING_DIR"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        seqio.get_mixture_or_task(name)
    assert "\n" not in str(error.value)


def test_a_task_without_training_set_says_which_it_may_be(real: None) -> None:
    with pytest.raises(
        DataError, match=r"set 'wikilarge', split 'train': no file in .*allowed: wiki"
    ):
        read_parts("writing.mixed.wikilarge_10", "train")
    with pytest.raises(DataError, match=r"set 'jfleg': split 'train'; allowed: validation, test"):
        read_parts("writing.mixed.jfleg_10", "train")


def test_shares_must_sum_to_one() -> None:
    register_mixture("half_and_half", {"fluency": 0.5, "generic": 0.5})
    mixture = seqio.get_mixture_or_task("half_and_half")
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == {
        "writing.fluency": 0.5,
        "writing.generic": 0.5,
    }
    with pytest.raises(DataError, match=r"shares sum to 0.9; allowed: a sum of 1"):
        register_mixture("less", {"fluency": 0.4, "generic": 0.5})
    with pytest.raises(DataError, match=r"fluency: 100; allowed: shares above 0 that sum to 1"):
        register_mixture("counts", {"fluency": 100, "generic": 500})


def test_alpaca_lora_ends_in_a_newline_with_and_without_input() -> None:
    row = Row("t", "", "1", "Say it.", "", ("x",))
    assert get_prompt("alpaca_lora").render(row) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSay it.\n\n### Response:\n"
    )
    with_input = Row("t", "", "1", "Say it.", "Good day", ("x",))
    assert get_prompt("alpaca_lora").render(with_input) == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay it.\n\n### Input:\nGood day\n\n### Response:\n"
    )


def test_another_wording_changes_the_instruction_alone(real: None) -> None:
    own = read_parts("writing.jfleg", "test")["jfleg"]
    worded = read_parts("writing.jfleg.w2", "test")["jfleg"]
    assert {row.definition for row in own} == {INSTRUCTIONS["fluency"]}
    assert {row.definition for row in worded} == {WORDINGS["fluency"][1]}
    restored = [dataclasses.replace(row, definition=own[0].definition) for row in worded]
    assert restored == own
    assert str(parse_name("writing.alpaca.jfleg.w2")) == "writing.alpaca.jfleg.w2"
    assert task_metrics.metrics_of("writing.jfleg.w2") == ("gleu", "gleu_closed")
    assert fingerprint("writing.jfleg.w2", "test") != fingerprint("writing.jfleg", "test")


def test_every_task_has_other_wordings_and_none_is_the_trained_one() -> None:
    assert WORDINGS.keys() == INSTRUCTIONS.keys()
    every = [text for texts in WORDINGS.values() for text in texts]
    assert len({*every, *INSTRUCTIONS.values()}) == len(every) + len(INSTRUCTIONS)


def test_every_task_names_its_metrics() -> None:
    assert task_metrics.metrics_of("jfleg") == ("gleu", "gleu_closed")
    assert task_metrics.metrics_of("conll2014") == ("m2", "errant")
    assert task_metrics.metrics_of("asset") == ("sari",)
    own = task_metrics.metrics_of("task1344_glue_entailment")
    assert own == ("rougeL", "rouge1", "exact_match")


def test_loaded_examples_keep_source_and_edits_and_train_on_natural_text(real: None) -> None:
    (example, *_) = load_examples("writing.jfleg_edits", "validation", LENGTHS)
    assert example.source is not None
    assert example.source.startswith("So I think we can not live if old people")
    assert list(json.loads(example.edits)) == ["0", "1", "2", "3"]
    vocabulary = mixtures.current_context().vocabulary
    natural = [detokenize(reference) for reference in example.references]
    assert [vocabulary.decode(target.tolist()) for target in example.targets] == natural
    (plain, *_) = load_examples(
        "superni.ql.io.task141_animal_and_vehicle_tagging.n10", "test", LENGTHS
    )
    assert plain.source is None
