"""M2 files: what they hold, and one line for what they should not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixtures.errors import DataError
from mixtures.writing.m2 import Edit, apply_edits, read_m2

CORRECT = "S He go .\nA 1 2|||R:VERB|||goes||went|||REQUIRED|||-NONE-|||1\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_every_annotator_has_edits_and_a_corrected_sentence(writing_dir: Path) -> None:
    two, none, other = read_m2(writing_dir / "formats" / "official-2014.combined.m2")[1:]
    assert two.references == (
        "He went to school yesterday , and he was happy .",
        "He went to school yesterday and he was happy .",
    )
    assert two.edits[1][2] == Edit(8, 9, ("was", "became"), "SVA")
    assert none.edits == {0: ()}
    assert other.references == ("The dogs .", "The dog .")
    assert json.loads(two.edits_as_json())["1"][1] == [5, 6, [""], "Mec"]


def test_noop_and_uncorrected_errors_change_nothing(writing_dir: Path) -> None:
    first, fine, unknown = read_m2(writing_dir / "formats" / "ABCN.dev.gold.bea19.m2")
    expected = "My town is a medium - sized city with , eighty thousand inhabitants ."
    assert first.references == (expected,)
    assert fine.references == ("I am fine .",)
    assert fine.edits == {0: ()}
    assert unknown.references == ("a unclear word here .",)


def test_edits_at_one_place_keep_their_order() -> None:
    edits = [Edit(1, 1, ("x",), ""), Edit(1, 1, ("y",), ""), Edit(1, 2, ("",), "")]
    assert apply_edits(["a", "b", "c"], edits) == ["a", "x", "y", "c"]


@pytest.mark.parametrize(
    "text", [CORRECT.replace("\n", "\r\n"), CORRECT + "\n\n\n", "\ufeff" + CORRECT]
)
def test_line_ends_and_blank_lines_do_not_matter(tmp_path: Path, text: str) -> None:
    (sentence,) = read_m2(write(tmp_path / "a.m2", text))
    assert sentence.source == "He go ."
    assert sentence.edits == {1: (Edit(1, 2, ("goes", "went"), "R:VERB"),)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "A 1 9|||R|||x|||REQUIRED|||-NONE-|||0",
            r"line 2: field 'start end': '1 9'; allowed: 0 <=",
        ),
        (
            "A 2 1|||R|||x|||REQUIRED|||-NONE-|||0",
            r"line 2: field 'start end': '2 1'; allowed: 0 <=",
        ),
        (
            "A 1|||R|||x|||REQUIRED|||-NONE-|||0",
            r"line 2: field 'start end': '1'; allowed: two int",
        ),
        ("A 1 2|||R|||x|||REQUIRED|||-NONE-", r"line 2: 5 fields; allowed: 6, start end\|\|\|type"),
        (
            "A 1 2|||R|||x|||REQUIRED|||-NONE-|||Ann",
            r"line 2: field 'annotator': 'Ann'; allowed: an i",
        ),
        ("He goes .", r"line 2: 'He goes .'; allowed: 'S tokens', then 'A ' lines"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_m2(write(tmp_path / "a.m2", f"S He go .\n{line}\n"))


@pytest.mark.parametrize("text", ["", "\n\n", "A 1 2|||R|||x|||REQUIRED|||-NONE-|||0\n"])
def test_a_file_without_sentences_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="allowed"):
        read_m2(write(tmp_path / "a.m2", text))


def test_the_real_file_holds_four_annotators_a_sentence(writing_dir: Path) -> None:
    sentences = read_m2(writing_dir / "data" / "m2" / "jfleg.dev.errant.m2")
    assert len(sentences) == 754
    assert {tuple(sentence.edits) for sentence in sentences} == {(0, 1, 2, 3)}
    lines = (writing_dir / "data" / "jfleg.dev.jsonl").read_text("utf-8").split("\n")
    for sentence, line in zip(sentences, filter(None, lines), strict=True):
        given = [reference.split() for reference in json.loads(line)["references"]]
        assert [reference.split() for reference in sentence.references] == given
