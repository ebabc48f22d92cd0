"""What an audit tells of writing sets: leaks between sets, repeated inputs, ways of writing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mixtures
from mixtures.vocabularies import writing_vocabulary
from t5x_ext.audit import Settings, audit
from t5x_ext.audits.flags import find_flags
from t5x_ext.audits.measures import Auditor, shared_inputs
from t5x_ext.audits.records import Limit, TaskAudit
from t5x_ext.audits.rows import load_other_sets, load_rows
from t5x_ext.audits.styles import style_clashes


def flags(*names: str) -> dict[tuple[str, str], str]:
    found = audit(Settings(mixtures=names))
    return {(flag["kind"], flag["subject"]): flag["text"] for flag in found["flags"]}


def flags_between(*names: str) -> dict[tuple[str, str], str]:
    """The flags that concern several sets, without measuring each of them."""
    mixtures.configure()
    tasks = [task for name in names for task in load_rows(name)]
    own = {task.name for task in tasks}
    everything = [*tasks, *load_other_sets(own)]
    found = find_flags(
        [],
        shared_inputs(everything, own),
        clashes=style_clashes(everything, own),
    )
    return {(flag.kind, flag.subject): flag.text for flag in found}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WRITING_DIR", str(tmp_path))
    return tmp_path


def test_leaks_between_real_sets_are_told(
    writing_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRITING_DIR", str(writing_dir / "data"))
    found = flags_between("writing.turkcorpus")
    leaked = found["shared validation", "turkcorpus, asset"]
    assert leaked == "1999 inputs are validation rows of one and training rows of another"
    together = found["same test", "turkcorpus, turkcorpus_detok, asset"]
    assert together == "359 inputs are test rows of each"
    assert "shared inputs" not in {kind for kind, _ in found}
    found = flags("writing.stsb", "writing.iterater_fluency")
    assert found["leak", "stsb"] == "1 of 97 test rows, 1 to the letter"
    assert found["shared documents", "iterater_fluency"] == "24 test rows"
    assert found["repeated inputs", "iterater_fluency"].startswith("88 test rows are 70 inputs")


def test_a_training_set_that_holds_test_sentences_is_told(sets: Path) -> None:
    write(sets / "wikilarge" / "wiki.full.aner.ori.train.src", "A cat sat .\nA dog ran .\n")
    write(sets / "wikilarge" / "wiki.full.aner.ori.train.dst", "Cat sat .\nDog ran .\n")
    table = "1\tA dog ran .\t" + "\t".join(["Dog ran ."] * 8)
    write(sets / "turkcorpus" / "test.8turkers.organized.tsv", table)
    found = flags("writing.wikilarge", "writing.turkcorpus")
    subjects = [subject for kind, subject in found if kind == "shared inputs"]
    assert subjects == ["wikilarge, turkcorpus"]


def test_training_rows_from_documents_of_test_rows_are_told(sets: Path) -> None:
    def rows(*documents: tuple[str, str | int]) -> str:
        fields = {"after_sent": "It is fine."}
        made = (
            {"before_sent": f"Its {label} {i}.", "labels": label, "doc_id": document}
            for i, (label, document) in enumerate(documents)
        )
        return "".join(json.dumps(fields | each) + "\n" for each in made)

    others = ("coherence", "6"), ("coherence", "6")  # an audit reads every label
    trained = rows(*others, ("clarity", "0809.0001"), ("fluency", 7), ("fluency", "8"))
    fluent = (("fluency", each) for each in ("0809.0001", "7", "9"))
    tested = rows(*others, *fluent, ("clarity", "9"))
    write(sets / "iterater_v2" / "train.json", trained)
    write(sets / "human_sent_level" / "test.json", tested)
    found = flags("writing.iterater_fluency", "writing.iterater_clarity")
    assert found["shared documents", "iterater_fluency"] == "2 test rows"
    assert ("shared documents", "iterater_clarity") not in found


def test_sets_that_tokenise_hyphens_differently_are_told(sets: Path) -> None:
    write(
        sets / "clang8_source_target_en.spacy_tokenized.tsv",
        "A twenty - five year man .\tA twenty - five year old man .\n",
    )
    write(
        sets / "official-2014.combined.m2",
        "S A twenty-five year man .\nA 3 3|||R|||old|||REQUIRED|||-NONE-|||0\n\n",
    )
    found = flags("writing.clang8", "writing.conll2014")
    assert found["tokenisation", "clang8, conll2014"] == (
        "hyphens apart in 100% of the training inputs that have any, in 0% of the test inputs"
    )


def test_the_bundled_suite_has_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRITING_DIR", raising=False)
    assert flags_between("writing.simplification", "writing.coherence") == {}
    assert not any(task.repeated_inputs for task in measured("writing.clarity"))


def measured(name: str) -> list[TaskAudit]:
    auditor = Auditor(writing_vocabulary(), [Limit(128, 64)])
    return [auditor.measure(task) for task in load_rows(name)]
