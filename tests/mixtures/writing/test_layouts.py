"""Sets in the layouts that they are distributed in, with the traps those have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from mixtures.errors import DataError
from mixtures.writing import layouts
from mixtures.writing.finding import read_set, splits_in
from mixtures.writing.sets import EDIT_METRICS, SETS, TASKS
from t5x_ext.metrics import NAMES, get_metric


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_quotes_in_wnc_are_characters(writing_dir: Path) -> None:
    first, second = layouts.read_wnc(writing_dir / "formats" / "biased.word.test")
    assert (first.source, first.references) == (
        'The "great" mayor won.',
        ("The mayor won.",),
    )
    assert second.source == 'An unbalanced " quote here.'
    assert second.id == "1002"


def test_quotes_in_turkcorpus_are_doubled(writing_dir: Path) -> None:
    (item,) = layouts.read_turk_table(writing_dir / "formats" / "test.8turkers.organized.tsv")
    assert item.references[0] == 'The cat "sat" there .'
    assert len(item.references) == 8


def test_only_pairs_of_similarity_five_are_paraphrases(writing_dir: Path) -> None:
    (item,) = layouts.read_stsb(writing_dir / "formats" / "stsb-en-test.csv")
    assert (item.source, item.references) == (
        "A man, sitting, reads.",
        ("A seated man is reading.",),
    )


def test_an_empty_rewriting_is_kept_by_the_reader_and_left_out_of_the_set(
    writing_dir: Path,
) -> None:
    path = writing_dir / "formats" / "iterater_v2.train.json"
    assert [item.references for item in layouts.read_iterater(path)] == [(" It is fine.",), ("",)]
    formats = epath.Path(writing_dir / "formats")
    (kept,) = read_set(formats, SETS["iterater_fluency"], "train")
    assert kept.source == " It are fine."
    with pytest.raises(DataError, match="no row of label 'coherence' that is rewritten"):
        read_set(formats, SETS["iterater_coherence"], "train")


def test_instructions_with_and_without_input_are_kept(writing_dir: Path) -> None:
    tips, odd = layouts.read_alpaca(writing_dir / "formats" / "alpaca_data.json")
    assert (tips.source, tips.references) == ("", ("1. A\n2. B\n3. C",))
    assert (odd.instruction, odd.source) == (
        "Identify the odd one out.",
        "Twitter, Instagram, Telegram",
    )


def test_edits_in_characters_leave_uncorrected_errors(tmp_path: Path) -> None:
    row = '{"id": "1-1", "text": "A medium city.\\nI like alot.", "edits": [[0, %s]]}'
    path = write(
        tmp_path / "A.dev.json", row % '[[8, 8, "-sized"], [22, 26, "a lot"], [0, 1, null]]'
    )
    (item,) = layouts.read_character_edits(path)
    assert item.references == ("A medium-sized city.\nI like a lot.",)
    write(path, row % '[[9, 99, "x"]]')
    with pytest.raises(DataError, match=r"A.dev.json: line 1: field 'edits': .*in characters"):
        layouts.read_character_edits(path)


def test_whole_texts_of_a_level_are_a_set_of_their_own(writing_dir: Path) -> None:
    (item,) = read_set(epath.Path(writing_dir / "formats"), SETS["wi_a"], "test")
    assert item.source == "My town is a medium size city.\nI like it alot."
    # The made-up positions, which are one character off, as they stand; null changes nothing.
    assert item.references == ("My town is a medium -sized city.\nI like ita lott.",)
    assert item.id == "1-1"
    assert SETS["wi_n"].splits.keys() == {"test"}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("conll2014", "official-2014.combined.m2"),
        ("conll2014", "noalt/official-2014.combined.m2"),
        ("conll2014", "conll2014/noalt/official-2014.combined.m2"),
        ("conll2014", "conll2014/alt/official-2014.combined.m2"),
        ("conll2014", "alt/official-2014.combined-withalt.m2"),
        ("wnc", "biased.word.test"),
        ("wnc", "WNC/biased.word.test"),
        ("wnc", "wnc/WNC/biased.word.test"),
    ],
)
def test_files_are_found_in_the_folders_they_come_in(
    tmp_path: Path, writing_dir: Path, name: str, place: str
) -> None:
    given = "biased.word.test" if name == "wnc" else "official-2014.combined.m2"
    write(tmp_path / place, (writing_dir / "formats" / given).read_text(encoding="utf-8"))
    expected = read_set(epath.Path(writing_dir / "formats"), SETS[name], "test")
    assert read_set(epath.Path(tmp_path), SETS[name], "test") == expected


def test_sentences_without_alternatives_are_taken_where_both_are_there(tmp_path: Path) -> None:
    for folder, correction in (("noalt", "b"), ("alt", "c")):
        line = f"A 0 1|||X|||{correction}|||REQUIRED|||-NONE-|||0"
        write(tmp_path / folder / "official-2014.combined.m2", f"S a\n{line}\n")
    (item,) = read_set(epath.Path(tmp_path), SETS["conll2014"], "test")
    assert item.references == ("b",)


def test_parallel_files_and_pairs(writing_dir: Path) -> None:
    formats = writing_dir / "formats"
    name = "wiki.full.aner.ori.train"
    items = layouts.read_parallel(formats / f"{name}.src", formats / f"{name}.dst")
    assert items[0].references == ("It is in Alfalfa County .",)
    pairs = layouts.read_pairs(formats / "clang8_source_target_en.spacy_tokenized.tsv")
    assert [(pair.source, *pair.references) for pair in pairs] == [
        ("I likes cats .", "I like cats ."),
        ("no change here .", "no change here ."),
    ]


@pytest.mark.parametrize("place", ["", "jfleg/", "jfleg/flat"])
def test_numbered_references_are_found_in_either_folder(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "jfleg" if place == "jfleg/flat" else tmp_path / place / "dev"
    write(folder / "dev.src", "A b .\r\nC d .\r\n")
    for number in range(4):
        write(folder / f"dev.ref{number}", f"A {number} .\r\nC {number} .")
    found = read_set(epath.Path(tmp_path), SETS["jfleg"], "validation")
    assert [item.source for item in found] == ["A b .", "C d ."]
    assert found[1].references == ("C 0 .", "C 1 .", "C 2 .", "C 3 .")
    assert splits_in(epath.Path(tmp_path), SETS["jfleg"]) == ("validation",)


def test_the_second_version_of_iterater_trains_and_the_first_tests(tmp_path: Path) -> None:
    row = {"before_sent": "A b.", "labels": "clarity"}
    for folder in ("human_sent_level", "iterater_v2"):
        for name in ("train", "dev", "test"):
            text = json.dumps(row | {"after_sent": f"{folder}."})
            write(tmp_path / "iterater" / folder / f"{name}.json", text)

    def folders() -> list[str]:
        clarity = SETS["iterater_clarity"]
        found = [read_set(epath.Path(tmp_path), clarity, split) for split in clarity.splits]
        return [items[0].references[0].strip(".") for items in found]

    assert folders() == ["iterater_v2", "iterater_v2", "human_sent_level"]
    (tmp_path / "iterater" / "iterater_v2" / "train.json").unlink()
    (tmp_path / "iterater" / "human_sent_level" / "test.json").unlink()
    assert folders() == ["human_sent_level", "iterater_v2", "iterater_v2"]


def test_files_of_common_names_count_only_in_the_folder_of_their_set(tmp_path: Path) -> None:
    write(tmp_path / "train.json", "{}")
    assert splits_in(epath.Path(tmp_path), SETS["iterater_fluency"]) == ()


ROW = '{"dataset": "asset", "input": "A.", "references": ["B."]}'


def with_fields(fields: dict[str, Any]) -> str:
    return json.dumps({"input": "A b.", "references": ["B a."]} | fields)


@pytest.mark.parametrize(
    ("name", "text", "set_name", "split", "message"),
    [
        (
            "jfleg.test.jsonl",
            ROW,
            "jfleg",
            "test",
            r"jfleg.test.jsonl: line 1: field 'dataset': 'asset'; allowed: 'jfleg'",
        ),
        (
            "asset.test.jsonl",
            ROW,
            "asset",
            "test",
            r"asset.test.jsonl: row 0: field 'references': 1; allowed: 10, as every row",
        ),
        ("asset.test.jsonl", "[]", "asset", "test", r"line 1: not an object"),
        *(
            ("stsb.test.jsonl", with_fields(fields), "stsb", "test", message)
            for fields, message in (
                ({"instruction": 3}, r"line 1: field 'instruction': 3; allowed: a text"),
                ({"id": ["a"]}, r"field 'id': .*; allowed: a text or a whole number"),
                ({"dataset": {}}, r"field 'dataset': {}; allowed: a text"),
                ({"meta": "a"}, r"field 'meta': .*; allowed: an object"),
                ({"meta": {"label": 1}}, r"field 'label': 1; allowed: a text"),
                (
                    {"meta": {"tokenized": "false"}},
                    "field 'tokenized': 'false'; allowed: true or false",
                ),
                ({"input": "a \ud83d"}, r"line 1: '\\ud83d' is half of a surrogate pair; allowed"),
            )
        ),
        ("stsb.test.jsonl", '{"input": "A."}', "stsb", "test", r"field 'references': missing"),
        (
            "stsb-en-test.csv",
            "a,b,high\n",
            "stsb",
            "test",
            r"row 1: field 'score': 'high'; allowed: a",
        ),
        *(
            (
                "bea2019.test.jsonl",
                with_fields(fields),
                "bea2019",
                "test",
                message,
            )
            for fields, message in (
                ({}, r"bea2019.test.jsonl: row 0: field 'edits': missing; allowed: gold edits, "),
                ({"edits": {"0": [[2, 3, ["c"]]]}}, r"line 1: field 'edits': .* <= end <= 2, the"),
                ({"edits": [[0, 1, ["c"]]]}, r"line 1: field 'edits': .*; allowed: for each annot"),
            )
        ),
        (
            "alpaca_gpt4.train.jsonl",
            with_fields({"instruction": " "}),
            "alpaca_gpt4",
            "train",
            r"row 0: field 'instruction': missing; allowed: a text that is not blank",
        ),
        (
            "stsb-en-test.csv",
            'a,b,5\n"a,b,5\n' + "a sentence,another,3\n" * 7000,
            "stsb",
            "test",
            r"stsb-en-test.csv: line 2: not CSV \(field larger .*; allowed: CSV whose quotes are",
        ),
        (
            "test.8turkers.organized.tsv",
            "\t".join(["1", *"abcdefghi"]) + "\n" + "\t".join(["2", "a\rb", *"bcdefghi"]),
            "turkcorpus",
            "test",
            r"tsv: line 2: not CSV \(.*; allowed: .*without a carriage return inside of a line",
        ),
        (
            "biased.word.test",
            "1\ta\tb\n",
            "wnc",
            "test",
            r"line 1: 3 columns; allowed: 7: id, source",
        ),
        (
            "test.8turkers.organized.tsv",
            '1\t"a\tb\n',
            "turkcorpus",
            "test",
            r"2 columns; allowed: 10",
        ),
        (
            "clang8_source_target_en.spacy_tokenized.tsv",
            "a\n",
            "clang8",
            "train",
            r"1 columns; allowed: 2",
        ),
        (
            "alpaca_data.json",
            '[{"instruction": "x", "input": null}]',
            "alpaca",
            "train",
            r"item 0: field 'input': missing; allowed: a string",
        ),
        ("alpaca_data.json", '{"a": 1}', "alpaca", "train", r"dict; allowed: a list of objects"),
        (
            "iterater/test.json",
            '{"before_sent": "a"}',
            "iterater_clarity",
            "test",
            r"test.json: line 1: field 'after_sent': missing; allowed: a string",
        ),
        (
            "other.txt",
            "",
            "wnc",
            "test",
            r"set 'wnc', split 'test': no file in .*; allowed: wnc.test.jsonl or WNC/biased",
        ),
    ],
)
def test_what_a_layout_does_not_have_is_named(
    tmp_path: Path, name: str, text: str, set_name: str, split: str, message: str
) -> None:
    write(tmp_path / name, text)
    with pytest.raises(DataError, match=message) as error:
        read_set(epath.Path(tmp_path), SETS[set_name], split)
    assert "\n" not in str(error.value)


def test_what_is_optional_in_a_row_may_be_null(tmp_path: Path) -> None:
    absent = {"instruction": None, "id": None, "dataset": None, "meta": None}
    unmarked = {"id": 7, "meta": {"label": None, "tokenized": None}}
    rows = map(with_fields, ({}, absent, unmarked))
    path = write(tmp_path / "stsb.test.jsonl", "\n".join(rows))
    plain, null, numbered = layouts.read_jsonl(path, "stsb")
    assert plain == null == layouts.Item("A b.", ("B a.",))
    assert numbered == layouts.Item("A b.", ("B a.",), id="7")


def test_rows_with_edits_are_those_of_the_published_file(tmp_path: Path, writing_dir: Path) -> None:
    published = read_set(epath.Path(writing_dir / "formats"), SETS["bea2019"], "test")
    rows = [
        {"input": item.source, "references": item.references, "edits": json.loads(item.edits)}
        | {"meta": {"tokenized": True}}
        for item in published
    ]
    write(tmp_path / "bea2019.test.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_set(epath.Path(tmp_path), SETS["bea2019"], "test") == published
    write(tmp_path / "wi_locness.train.jsonl", with_fields({}))  # never scored
    assert len(read_set(epath.Path(tmp_path), SETS["wi_locness"], "train")) == 1


def test_metrics_that_need_edits_are_known_to_the_sets() -> None:
    metrics = {name: get_metric(name) for name in NAMES if "spacy" not in name}
    assert {name for name, each in metrics.items() if "edits" in each.needs} == EDIT_METRICS


def test_reference_files_of_another_length_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.src", "A .\nB .\n")
    with pytest.raises(DataError, match=r"a.dst: 1 lines; allowed: 2, one for each of .*a.src"):
        layouts.read_parallel(source, write(tmp_path / "a.dst", "C .\n"))


PUBLISHED = {
    "jfleg": {"validation": 754, "test": 747},
    "jfleg_edits": {"validation": 754, "test": 747},
    "iterater_fluency": {"train": 739, "validation": 115, "test": 88},
    "iterater_clarity": {"train": 1253, "validation": 157, "test": 185},
    "iterater_coherence": {"train": 275, "validation": 41, "test": 35},
    "turkcorpus": {"train": 2000, "test": 359},
    "turkcorpus_detok": {"test": 359},
    "asset": {"validation": 2000, "test": 359},
    "wnc_sample": {"train": 1000, "test": 100},
    "stsb": {"train": 266, "validation": 56, "test": 97},
    "alpaca_seed": {"train": 175},
}


def test_real_sets_have_the_published_counts(writing_dir: Path) -> None:
    directory = epath.Path(writing_dir / "data")
    found = {
        name: {split: len(read_set(directory, each, split)) for split in splits}
        for name, each in SETS.items()
        if (splits := splits_in(directory, each))
    }
    assert found == PUBLISHED


def test_repeated_inputs_of_iterater_are_as_counted(writing_dir: Path) -> None:
    directory = epath.Path(writing_dir / "data")
    distinct = [
        len({item.source for item in read_set(directory, SETS[f"iterater_{label}"], "test")})
        for label in ("fluency", "clarity", "coherence")
    ]
    assert distinct == [70, 134, 30]


def test_every_set_belongs_to_a_task_and_has_a_metric() -> None:
    assert {each.task for each in SETS.values()} == {*TASKS, "generic"}
    assert all(each.metrics for each in SETS.values())
